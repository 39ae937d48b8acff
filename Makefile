# What one does with a clone. `make help` lists it.

export PATH := $(PATH):$(HOME)/.cargo/bin
CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help deps build install install-capi deb deb-test demo test vm faults bridges compat soak fuzz sanitize lint doc clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make test STAGES=\"units lints\"    only these stages (scripts/run-tests --list names them)"
	@echo "  make vm NICS=\"e1000e\"             only these NICs (scripts/vm --list names them)"
	@echo "  make faults FAULTS=\"disk stop\"    only these faults (scripts/faults --list names them)"
	@echo "  make soak SEEDS=5000 FIRST=77     5,000 seeds from 77 on"
	@echo "  make fuzz MINUTES=1               each target for a minute"
	@echo "  make demo ARGS=\"--json\"           arguments for 'pollnd demo'"

deps: ## install what is missing (as root), or say how
	@scripts/deps test

build: ## build everything for speed
	@scripts/deps
	$(CARGO) build --release --workspace

PREFIX ?= /usr/local
install: ## the program, its service, a sample configuration, manual pages, completions, below DESTDIR and PREFIX (/usr/local unless told)
	@scripts/deps
	$(CARGO) build --release --package pollnd
	@scripts/install "$(DESTDIR)" "$(PREFIX)"

deb: ## a Debian package with all that, in target/deb
	@scripts/deps deb
	$(CARGO) build --release --package pollnd
	@scripts/deb

deb-test: deb ## install that package in a container with systemd, as root: run it, kill it, reload it, remove it
	@scripts/deps deb-test
	@scripts/deb test

install-capi: ## the C library, its header and its pkg-config file, below DESTDIR and PREFIX (/usr/local unless told)
	@scripts/deps
	$(CARGO) build --release --package pollnd-capi
	@scripts/install-capi "$(DESTDIR)" "$(PREFIX)"

demo: ## two nodes in one process over a virtio link, against kernel sockets; at most a minute once built
	@scripts/demo $(ARGS)

test: ## build, run every test and every check, print one table
	@scripts/deps test
	@scripts/run-tests $(STAGES)

vm: ## guests under QEMU, as root: virtio by uio and by vfio, two queues with RSS, vhost-user, e1000e; 11 minutes once built
	@scripts/deps vm
	$(CARGO) build --release --package pollnd
	@scripts/vm $(NICS)

faults: ## nodes killed, stopped, cut off and short of something, under bulk, as root: all is served again; 10 minutes once built
	@scripts/deps faults
	$(CARGO) build --release --package pollnd
	@scripts/faults $(FAULTS)

bridges: ## doctor's look through bridges and VLANs, as root, on a kernel that has them (many virtual machines' do not)
	$(CARGO) test --package pollnd --test cli_errors -- --ignored bridges

compat: ## compile against other DPDKs' packages; as root, build and run in a chroot of Debian 13
	@scripts/deps
	@scripts/compat

soak: ## simulate networks with SEEDS=n fresh seeds, or for SECONDS=s (600 unless told); then lnet_selftest, SELFTEST=3600 s each way, and make faults
	@SOAK_SEEDS=$(SEEDS) SOAK_SECONDS=$(SECONDS) SOAK_FIRST=$(FIRST) SOAK_SELFTEST=$(SELFTEST) scripts/soak

MINUTES ?= 5
fuzz: ## every fuzz target for five minutes, starting from its corpus; a failure prints how to repeat it
	BOLERO_RANDOM_TEST_TIME_MS=$$(($(MINUTES) * 60000)) \
	    $(CARGO) test --package pollnd-tcpstack --package pollnd-transport --no-fail-fast --test fuzz
	BOLERO_RANDOM_TEST_TIME_MS=$$(($(MINUTES) * 60000)) $(CARGO) test --package pollnd --bin pollnd config::fuzz

sanitize: ## memory errors: AddressSanitizer or valgrind over the crates with unsafe code; ten minutes
	@scripts/sanitize

lint: ## formatting, clippy, documentation, arrows between crates, file rules
	@scripts/deps test
	@scripts/run-tests lints

doc: ## the crates' documentation, in target/doc
	$(CARGO) doc --workspace --no-deps --all-features

clean: ## remove what was built
	$(CARGO) clean

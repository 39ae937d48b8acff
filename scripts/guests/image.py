"""A guest's kernel and initramfs: Debian's kernel and busybox, our binary, and the libraries and drivers that it loads.

Everything lies in target/vm; nothing is installed on the machine.
"""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

# Drivers that EAL loads by itself, out of its folder of plugins.
PLUGINS = ("librte_bus_pci", "librte_bus_vdev", "librte_mempool_ring", "librte_net_virtio", "librte_net_vhost", "librte_net_e1000")
# Modules of the guest's kernel: the NICs' own drivers, loaded at its start, and those that `pollnd doctor --fix` loads.
KERNELS = ("virtio_pci", "virtio_net", "e1000e")
MODULES = (*KERNELS, "uio_pci_generic", "vfio-pci", "vfio_iommu_type1")
LIBS = Path("/usr/lib/x86_64-linux-gnu")
FOLDERS = "bin dev dev/hugepages etc lib lib/modules proc root run sys tmp usr usr/bin usr/lib var".split()


class Cannot(Exception):
    """Something that this machine lacks."""


def package(work, name):
    """The unpacked folder of a Debian package, fetched once."""
    folder = work / "packages" / name
    if folder.is_dir():
        return folder
    debs = work / "debs" / name
    shutil.rmtree(debs, ignore_errors=True)
    debs.mkdir(parents=True)
    get = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name]
    done = subprocess.run(get, cwd=debs, capture_output=True, text=True, check=False)
    found = list(debs.glob("*.deb"))
    if done.returncode or not found:
        raise Cannot(f"package {name} cannot be fetched: {done.stderr.strip() or done.stdout.strip()}")
    half = work / "packages" / f"{name}.half"
    shutil.rmtree(half, ignore_errors=True)
    half.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg", "-x", found[0], half], check=True)
    half.rename(folder)
    return folder


def kernel(work):
    """The folder of the kernel that Debian's linux-image-amd64 stands for."""
    show = ["apt-cache", "depends", "--important", "linux-image-amd64"]
    said = subprocess.run(show, capture_output=True, text=True, check=False).stdout
    names = re.findall(r"Depends: (linux-image-\S+)", said)
    if not names:
        raise Cannot("apt knows no linux-image-amd64")
    return package(work, names[0])


def modules(root):
    """Files of MODULES and of what they depend on, each with the files of those."""
    files = {f.name.removesuffix(".ko").replace("-", "_"): f for f in root.glob("lib/modules/*/kernel/**/*.ko")}
    found = {}

    def add(name):
        """Files of a module and of all that it depends on."""
        file = files.get(name.replace("-", "_"))
        if file is None:
            raise Cannot(f"no module {name} in {root}")
        if file not in found:
            needs = re.search(rb"\0depends=([^\0]*)\0", file.read_bytes())
            below = set().union(*(add(n) for n in (needs[1].decode().split(",") if needs else []) if n))
            # modprobe loads from the last to the first: what others need stands before them here.
            found[file] = [f for f in reversed(found) if f in below]
        return {file, *found[file]}

    for name in MODULES:
        add(name)
    return found


def libraries(files):
    """Every shared library that the programs and libraries load, the dynamic linker among them."""
    found = set()
    for file in files:
        said = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
        found.update(re.findall(r"(?:=> )?(/\S+) \(0x", said))
        lost = re.findall(r"(\S+) => not found", said)
        if lost:
            raise Cannot(f"{file} needs {', '.join(lost)}")
    return found


class Archive:
    """A cpio archive in the form that kernels unpack ("newc")."""

    def __init__(self, file):
        self.out, self.number, self.names = file, 0, set()

    def entry(self, name, mode, body=b""):
        name = name.lstrip("/")
        if name in self.names:
            return
        self.names.add(name)
        self.number += 1
        head = [self.number, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name) + 1, 0]
        self.out.write(b"070701" + b"".join(b"%08x" % n for n in head))
        self.padded(name.encode() + b"\0", 110)
        self.padded(body, 0)

    def padded(self, data, before):
        self.out.write(data + b"\0" * (-(before + len(data)) % 4))

    def folder(self, name):
        for parent in reversed(Path(name).parents):
            if str(parent) not in (".", "/"):
                self.entry(str(parent), stat.S_IFDIR | 0o755)
        self.entry(name, stat.S_IFDIR | 0o755)

    def file(self, name, body, mode=0o644):
        self.folder(str(Path(name).parent))
        self.entry(name, stat.S_IFREG | mode, body)

    def link(self, name, to):
        self.folder(str(Path(name).parent))
        self.entry(name, stat.S_IFLNK | 0o777, str(to).encode())

    def copy(self, path):
        """A file at the place that it has here, and the links that lead to it."""
        while path.is_symlink():
            to = Path(os.readlink(path))
            self.link(str(path), to)
            path = path.parent / to
        self.file(os.path.normpath(path), path.read_bytes(), path.stat().st_mode & 0o777)

    def end(self):
        self.number = -1
        self.entry("TRAILER!!!", 0)


def build(work, binary, init):
    """Kernel and initramfs for guests that run `binary`."""
    linux = kernel(work)
    busybox = package(work, "busybox-static") / "bin/busybox"
    plugins = [LIBS / f"{p}.so.{v}" for p in PLUGINS for v in plugin_versions(p)]
    initrd = work / "initrd"
    with initrd.with_suffix(".half").open("wb") as f:
        a = Archive(f)
        for folder in FOLDERS:
            a.folder(folder)
        a.file("init", init.read_bytes(), 0o755)
        a.file("bin/busybox", busybox.read_bytes(), 0o755)
        a.link("bin/sh", "busybox")
        a.file("usr/bin/pollnd", binary.read_bytes(), 0o755)
        found = modules(linux)
        release = next(linux.glob("lib/modules/*"))
        for m in found:
            a.file(f"lib/modules/{release.name}/{m.name}", m.read_bytes())
        depends = "".join(f"{m.name}: {' '.join(n.name for n in needs)}\n" for m, needs in found.items())
        a.file(f"lib/modules/{release.name}/modules.dep", depends.encode())
        a.file(f"lib/modules/{release.name}/modules.builtin", (release / "modules.builtin").read_bytes())
        a.file("lib/modules/kernels", " ".join(KERNELS).encode())
        a.link("var/run", "../run")
        # usr is merged into the root, as Debian has it.
        a.link("lib64", "usr/lib64")
        a.link("lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu")
        for path in sorted(libraries([binary, *plugins]) | {str(p) for p in plugins}):
            path = Path(path)
            # A library that is found by /lib is the same file by /usr/lib.
            if path.parts[1].startswith("lib"):
                path = Path("/usr") / path.relative_to("/")
            a.copy(path)
        for p in plugins:
            folder = f"{LIBS}/dpdk/pmds-{p.name.split('.so.')[1]}"
            a.link(f"{folder}/{p.name}", f"../../{p.name}")
        a.end()
    initrd.with_suffix(".half").rename(initrd)
    return next(linux.glob("boot/vmlinuz-*")), initrd


def plugin_versions(name):
    """Full versions of a driver's library that are installed: `23.0` of librte_net_virtio.so.23.0."""
    found = [f.name.split(".so.")[1] for f in LIBS.glob(f"{name}.so.*.*")]
    if not found:
        raise Cannot(f"no {name} in {LIBS}: apt-get install dpdk-dev")
    return found

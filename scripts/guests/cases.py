"""Guests' NICs, and the steps that each goes through: pollnd on the guest's NIC, and pollnd on the host as its peer."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass

from .qemu import HUGE, MEMORY, PCI, SLOT, Failed, Guest

HOST, GUEST = "10.80.0.1@tcp", "10.80.0.2@tcp"
# Counts that are 0 once a node has ended: pages and buffers are home, and no payload was copied to be sent.
HOME = ("lendings_out", "rx_lent_out", "rx_pool_bytes_in_use", "quarantined", "mbufs_not_home")
NEVER = ("tx_copied_bytes", "linearised")
# Times that a link goes, and seconds of bulk meanwhile.
FLAPS = 20


@dataclass(frozen=True)
class Nic:
    """A NIC of a guest, and the driver that opens it for DPDK."""

    name: str
    device: str
    driver: str = "uio_pci_generic"
    iommu: bool = False
    queues: int = 1
    vhost_user: bool = False
    mtus: tuple = (1500, 9000)


NICS = (
    Nic("virtio-uio", "virtio-net-pci,host_mtu=9000"),
    Nic(
        "virtio-vfio", "virtio-net-pci,host_mtu=9000,disable-legacy=on,iommu_platform=on,ats=on",
        driver="vfio-pci", iommu=True,
    ),
    Nic("virtio-rss", "virtio-net-pci,host_mtu=9000,mq=on,rss=on,vectors=6", queues=2),
    # Without MSI-X: QEMU 7.2 ends with a fault where the guest's kernel driver masks a vector of a device that has a backend.
    Nic("vhost-user", "virtio-net-pci,host_mtu=9000,rx_queue_size=1024,tx_queue_size=1024,vectors=0", vhost_user=True),
    Nic("e1000e", "e1000e"),
)


def counters(text):
    """Counts that a node prints when it ends."""
    rows = (line.split() for line in text.splitlines())
    return {r[0]: int(r[1]) for r in rows if len(r) == 2 and r[1].isdigit()}


def judge(where, text):
    """A node has ended: nothing is out, nothing was copied."""
    left = {n: v for n, v in counters(text).items() if n in (*HOME, *NEVER) and v}
    if left:
        raise Failed(f"the node of the {where} left {left}")
    if "panicked" in text or "pollnd: going down" not in text:
        raise Failed(f"the node of the {where} ended otherwise than by its signal: {text[-600:]}")


class Bench:
    """A host with its node, in a network namespace of its own, and a guest with its node."""

    def __init__(self, nic, pollnd, image, work):
        self.nic, self.pollnd, self.image, self.folder = nic, pollnd, image, work / nic.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.namespace = f"pollnd-vm-{os.getpid()}"
        self.guest = self.host = None
        self.started = 0
        self.env = os.environ | {"RUNTIME_DIRECTORY": str(self.folder / "run")}

    def __enter__(self):
        self.ip("netns", "add", self.namespace)
        self.within = ["ip", "netns", "exec", self.namespace]
        self.ip("-n", self.namespace, "link", "set", "lo", "up")
        if not self.nic.vhost_user:
            queues = ["multi_queue"] if self.nic.queues > 1 else []
            self.ip("-n", self.namespace, "tuntap", "add", "dev", "tap0", "mode", "tap", "vnet_hdr", *queues)
            self.ip("-n", self.namespace, "addr", "add", "10.80.0.1/24", "dev", "tap0")
            self.ip("-n", self.namespace, "link", "set", "tap0", "mtu", "9000", "up")
        return self

    def __exit__(self, *_):
        if self.guest:
            self.guest.kill()
        if self.host:
            self.host.kill()
            self.host.wait()
        self.ip("netns", "del", self.namespace)

    def ip(self, *arguments):
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

    # The host's side.

    def host_up(self, mtu):
        arguments = ["--vdev", f"net_vhost0,iface={self.folder}/vhost,tso=1", "--mtu", str(mtu)] if self.nic.vhost_user else []
        self.host_said = self.folder / f"host-{self.started}"
        self.started += 1
        with self.host_said.open("w") as out:
            command = [*self.within, self.pollnd, "node", "--nid", HOST, *arguments]
            self.host = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.env)
        self.wait("the host's node", lambda: " is up on " in self.host_said.read_text(), 30)

    def host_down(self):
        self.host.send_signal(signal.SIGTERM)
        try:
            code = self.host.wait(30)
        except subprocess.TimeoutExpired:
            raise Failed("the host's node does not end in 30 s") from None
        self.host = None
        if code:
            raise Failed(f"the host's node ended with {code}: {self.host_said.read_text()[-600:]}")
        judge("host", self.host_said.read_text())

    def command(self, *arguments):
        """A command of the host, through its node."""
        command = [*self.within, self.pollnd, *arguments, "--nid", HOST]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env,
        )

    def ended(self, process, seconds=120):
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failed(f"`{' '.join(map(str, process.args[4:]))}` does not end in {seconds} s") from None
        if process.returncode:
            raise Failed(f"`{' '.join(map(str, process.args[4:]))}` of the host: {process.returncode}, {out.strip()} {err.strip()[-600:]}")
        return out

    def wait(self, what, done, seconds):
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise Failed(f"{what}: not in {seconds} s")
            time.sleep(0.1)

    # The guest's side.

    def boot(self):
        nic, memory = self.nic, []
        if nic.vhost_user:
            memory = ["-object", f"memory-backend-memfd,id=m,size={MEMORY}M,share=on", "-numa", "node,memdev=m"]
            back = ["-chardev", f"socket,id=v0,path={self.folder}/vhost", "-netdev", "vhost-user,id=n0,chardev=v0"]
        else:
            queues = f",queues={nic.queues}" if nic.queues > 1 else ""
            back = ["-netdev", f"tap,id=n0,ifname=tap0,script=no,downscript=no{queues}"]
        device = f"{nic.device},id=net0,netdev=n0,addr={SLOT},mac=52:54:00:80:00:02"
        self.guest = Guest(
            self.folder / "guest", self.image, [*back, "-device", device], iommu=nic.iommu, memory=memory, within=self.within,
        )
        self.ready()

    def ready(self):
        """Has doctor give the NIC to DPDK, with huge pages near it: what a plan says, and only with --yes."""
        g, fix = self.guest, f"pollnd doctor --fix --port {PCI} --huge-pages {2 * HUGE}"
        self.kernels = (g.driver(), g.interfaces(), g.huge())
        code, said = g.run(f"{fix} --json")
        kinds = [s["step"] for s in json.loads(said.strip().splitlines()[-1])["steps"]]
        if code != 4 or not {"huge_pages", "module", "bind"} <= set(kinds) or (g.driver(), g.interfaces(), g.huge()) != self.kernels:
            raise Failed(f"doctor --fix without --yes: {code}, {said}")
        g.good(f"{fix} --yes")
        if (g.driver(), g.huge()) != (self.nic.driver, HUGE):
            raise Failed(f"doctor --fix --yes: the NIC is bound to {g.driver()}, {g.huge()} huge pages")
        g.good(fix)

    def given_back(self):
        """Has doctor take all of it back: the NIC has its own driver and interface, the pages are the kernel's."""
        g = self.guest
        said = g.good("pollnd doctor --undo")
        now = (g.driver(), g.interfaces(), g.huge())
        if now != self.kernels or "taken back" not in said:
            raise Failed(f"doctor --undo: {now} in place of {self.kernels}; {said}")
        if "nothing is recorded" not in g.good("pollnd doctor --undo"):
            raise Failed("doctor --undo finds something to take back a second time")
        return f"{now[0]}, interface {' '.join(now[1])}, {now[2]} huge pages"

    def node_up(self, mtu):
        lcores = f" --lcores {self.nic.queues}" if self.nic.queues > 1 else ""
        self.guest.good(
            f"pollnd node --nid {GUEST} --port {PCI} --mtu {mtu}{lcores} >/tmp/node 2>&1 & echo $! >/tmp/pid"
        )

    def node_down(self):
        code, said = self.guest.run("kill $(cat /tmp/pid); for i in $(seq 300); do kill -0 $(cat /tmp/pid) || break; sleep 0.1; done 2>/dev/null; cat /tmp/node")
        (self.folder / "node").write_text(said)
        judge("guest", said)
        return counters(said)

    def answers(self):
        """Waits for the guest's first answer. A ping ends as soon as nobody has the address: then it is asked again."""
        end = time.monotonic() + 60
        while True:
            try:
                return self.ended(self.command("ping", GUEST, "--timeout", "20"))
            except Failed:
                if time.monotonic() > end:
                    raise

    def counts(self, name):
        """A counter of the guest's node, of each lcore."""
        said = self.guest.good("pollnd stats --json --node $(cat /tmp/pid)").strip().splitlines()[-1]
        return [lcore["counters"][name] for lcore in json.loads(said)["lcores"]]

    def all_counts(self):
        """All counters of the guest's node, of all lcores."""
        said = self.guest.good("pollnd stats --json --node $(cat /tmp/pid)").strip().splitlines()[-1]
        return sum((Counter(lcore["counters"]) for lcore in json.loads(said)["lcores"]), Counter())

    def transfer(self, side, what, count, more=""):
        """`pollnd put` or `get` of 1 MiB messages, every byte checked: its JSON."""
        if side == "host":
            said = self.ended(self.command(what, GUEST, "-c", str(count), "--json"))
        else:
            said = self.guest.good(f"pollnd {what} {HOST} --node $(cat /tmp/pid) -c {count} --json 2>/tmp/err{more}")
        said = json.loads(said.strip().splitlines()[-1])
        if (said["messages"], said["crc_bad"], said["tx_copied_bytes"]) != (count, 0, 0):
            raise Failed(f"{what} of the {side}: {said}")
        return said["bytes"] * 8e-9 / said["wall_s"]


def doctor(b):
    """Nothing is missing; warnings are named."""
    code, said = b.guest.run("pollnd doctor --json")
    wrong = [f"{f['subject']}: {f['detail']}" for f in json.loads(said.strip().splitlines()[-1]) if f["severity"] != "ok"]
    if code not in (0, 3):
        raise Failed(f"doctor ends with {code}: {'; '.join(wrong)}")
    return "; ".join(wrong) or "all is well"


def first_ping(b, mtu):
    """From the start of the guest's node to its first answer, in the guest."""
    begin = time.monotonic()
    b.node_up(mtu)
    b.answers()
    return f"{time.monotonic() - begin:.1f} s"


def pings(b):
    b.ended(b.command("ping", GUEST, "-c", "3"))
    b.guest.good(f"pollnd ping {HOST} -c 3 --node $(cat /tmp/pid)")
    return "3 each way"


def bulk(b):
    """PUT and GET both ways, in Gbit/s."""
    rates = [b.transfer(side, what, 100) for side in ("guest", "host") for what in ("put", "get")]
    return " ".join(f"{r:.1f}" for r in rates) + " Gbit/s"


def rss(b):
    """The guest dials several peers. Each connection comes back on the queue of the lcore that is its peer's home, since
    the dialler chose its port so: no lcore has to hand a packet on, and both have peers."""
    strays = sum(b.counts("strays_handed"))
    peers = [f"10.80.0.{n}" for n in range(11, 19)]
    nodes = []
    try:
        for peer in peers:
            b.ip("-n", b.namespace, "addr", "add", f"{peer}/24", "dev", "tap0")
            command = [*b.within, b.pollnd, "node", "--nid", f"{peer}@tcp"]
            quiet = subprocess.DEVNULL
            nodes.append(subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, env=b.env))
        for peer in peers:
            b.guest.good(f"pollnd ping {peer}@tcp --node $(cat /tmp/pid)")
        said = b.guest.good("pollnd connections --json --node $(cat /tmp/pid)").strip().splitlines()[-1]
        homes = [c["lcore"] for c in json.loads(said)["connections"] if c["remote"].rsplit(":", 1)[0] in peers]
    finally:
        for n in nodes:
            n.kill()
            n.wait()
    handed = sum(b.counts("strays_handed")) - strays
    if len(homes) < len(peers) or set(homes) != {0, 1} or handed:
        raise Failed(f"lcores of the connections to {len(peers)} peers: {homes}; packets handed on: {handed}")
    return f"{len(homes)} connections dialled, on queue 0 {homes.count(0)}, on queue 1 {homes.count(1)}, 0 packets handed on"


def flap(b):
    """The link goes, over and over, while bulk is under way."""
    process = b.command("put", GUEST, "-t", str(FLAPS), "--json", "--timeout", "30")
    time.sleep(1)
    for _ in range(FLAPS):
        b.guest.link(False)
        time.sleep(0.4)
        b.guest.link(True)
        time.sleep(0.4)
    said = json.loads(b.ended(process, 180).strip().splitlines()[-1])
    if said["crc_bad"] or not said["messages"]:
        raise Failed(f"put: {said}")
    return f"{said['messages']} messages of 1 MiB, the link away {FLAPS} times for 0.4 s"


def clock(b):
    """The guest's clock is stepped while bulk and a capture are under way: neither minds, and nothing times out."""
    late = [n for n in b.all_counts() if n.endswith("_timeout")] + ["err_no_answer", "sets_closed", "dials_failed"]
    before = b.all_counts()
    process = b.command("put", GUEST, "-c", "1000000", "--json", "--timeout", "20")
    b.guest.good(
        "pollnd capture --peer 10.80.0.1 --out /tmp/c.pcap --snaplen 64 --node $(cat /tmp/pid) >/tmp/capture 2>&1 & "
        "echo $! >/tmp/capturer; until test -s /tmp/c.pcap; do sleep 0.1; done"
    )
    size = lambda: int(b.guest.good("stat -c %s /tmp/c.pcap"))  # noqa: E731
    sizes = [size()]
    for step in (3600, -7200, 3600):
        b.guest.good(f"date -s @$(($(date +%s) + {step}))")
        b.wait(f"the capture goes on after {step} s", lambda: size() > sizes[-1], 20)
        sizes.append(size())
    b.guest.good("kill -INT $(cat /tmp/capturer); until grep -q ' packets in ' /tmp/capture; do sleep 0.1; done; rm /tmp/c.pcap")
    process.send_signal(signal.SIGINT)
    said = json.loads(process.communicate(timeout=60)[0].strip().splitlines()[-1])
    after = b.all_counts()
    if changed := {n: after[n] - before[n] for n in late if after[n] != before[n]}:
        raise Failed(f"counts that a step of the clock changes: {changed}")
    if said["crc_bad"] or not said["messages"] or "interrupted" not in said["error"]:
        raise Failed(f"put: {said}")
    return f"+1 h, -2 h, +1 h: {said['messages']} messages of 1 MiB, a capture of {sizes[-1]} bytes, no timeout"


def pages_gone(b, mtu):
    """The node is killed and finds no huge pages when it starts again: it says so. With pages it starts."""
    nr = "/proc/sys/vm/nr_hugepages"
    b.guest.good(f"kill -9 $(cat /tmp/pid); sleep 1; echo 0 >{nr}; test $(cat {nr}) = 0")
    code, said = b.guest.run(f"timeout 10 pollnd node --nid {GUEST} --port {PCI} --mtu {mtu}")
    # What an IOMMU is behind can do with ordinary pages, and is ended by the timeout.
    if not (b.nic.iommu and "ordinary pages" in said) and (code != 1 or "nr_hugepages" not in said):
        raise Failed(f"without huge pages it ends with {code}: {said[-600:]}")
    b.guest.good(f"echo {HUGE} >{nr}; test $(cat {nr}) = {HUGE}")
    how = "goes on with ordinary ones" if b.nic.iommu else "named"
    return f"{how}; with pages again, first ping in {first_ping(b, mtu)}"


def measure(b):
    """PUTs from the guest to the host by a node that does nothing else: no thread of the guest stands between."""
    rates = []
    for _ in range(5):
        said = b.guest.good(f"pollnd put {HOST} --nid {GUEST} --port {PCI} --mtu {b.nic.mtus[1]} -c 1500 --timeout 60 --json 2>/tmp/err")
        said = json.loads(said.strip().splitlines()[-1])
        if (said["messages"], said["tx_copied_bytes"], said["clean"]) != (1500, 0, True):
            raise Failed(f"put: {said}")
        rates.append(said["bytes"] * 8e-9 / said["wall_s"])
    low, middle, high = sorted(rates)[0], sorted(rates)[2], sorted(rates)[4]
    load = os.getloadavg()[0]
    return f"{middle:.1f} Gbit/s ({low:.1f} to {high:.1f}), the host checks each byte, 0 copied; load average {load:.1f}"


def selftest(b):
    out = b.ended(b.command("selftest", "quick", "--from", HOST, "--to", GUEST, "--seconds", "3", "--check", "full", "--json"))
    last = json.loads(out.strip().splitlines()[-1])
    if last["errors"]:
        raise Failed(f"selftest: {last}")
    return f"BRW write, every word checked: {8e-9 * max(n['recv_bytes_per_s'] for n in last['nodes']):.1f} Gbit/s"


def killed(b, mtu):
    """The guest is killed while bulk goes to it, and boots again."""
    process = b.command("put", GUEST, "-c", "1000000", "--json", "--timeout", "5")
    time.sleep(2)
    b.guest.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    if process.poll() is None:
        process.kill()
        raise Failed("a put to a guest that was killed does not end in 60 s")
    process.communicate()
    if process.returncode == 0:
        raise Failed("a put to a guest that was killed ended well")
    b.boot()
    b.node_up(mtu)
    b.answers()
    return bulk(b)


def steps(nic):
    """The steps of a NIC in their order: name, and what does it."""
    low, high = nic.mtus
    yield "host's node", lambda b: b.host_up(high)
    yield "boot", lambda b: b.boot()
    yield "doctor", doctor
    yield f"first ping, MTU {low}", lambda b: first_ping(b, low)
    yield "ping", pings
    yield f"PUT and GET, MTU {low}", bulk
    yield "pages home", lambda b: b.node_down() and ""
    yield f"first ping, MTU {high}", lambda b: first_ping(b, high)
    yield f"PUT and GET, MTU {high}", bulk
    if nic.queues > 1:
        yield "RSS", rss
    yield "link flap", flap
    yield "selftest quick", selftest
    yield "pages home", lambda b: b.node_down() and ""
    if nic.vhost_user:
        yield "PUT of its own", measure
    yield "first ping again", lambda b: first_ping(b, high)
    yield "clock stepped", clock
    yield "huge pages gone", lambda b: pages_gone(b, high)
    yield "guest killed", lambda b: killed(b, high)
    yield "pages home", lambda b: b.node_down() and ""
    yield "doctor --undo", lambda b: b.given_back()
    yield "host's pages home", lambda b: b.host_down()


def play(nic, pollnd, image, work, tell):
    """Plays all steps of a NIC until one fails; `tell(step, seconds, outcome, ok)` for each."""
    with Bench(nic, pollnd, image, work) as b:
        for name, step in steps(nic):
            begin = time.monotonic()
            try:
                said, ok = step(b) or "", True
            except (Failed, ValueError, KeyError, TypeError) as e:
                said, ok = f"{type(e).__name__}: {e}", False
            tell(name, time.monotonic() - begin, said, ok)
            if not ok:
                return False
    return True


assert HUGE * 2 < MEMORY

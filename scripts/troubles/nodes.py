"""Nodes of the release binary, the links between them, and bulk through them, every byte of which is checked."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

# Counts of a node that runs that are 0 when nothing is under way.
LENT = ("lendings_out", "rx_lent_out", "rx_pool_bytes_in_use", "quarantined")
# Counts of a node's end that are 0: all pages and buffers are home, and no payload was copied to be sent.
HOME = (*LENT, "mbufs_not_home", "tx_copied_bytes", "linearised")
# Growth that says nothing: of a node's own memory, in KiB, since an allocator keeps what it once had; of descriptors and threads,
# by connections that a peer dialled in place of ours, and by who asks.
SLACK = {"RssAnon": 4096, "descriptors": 4, "Threads": 1}
# The same on kernel sockets, where what is received is in a node's own memory, too.
SOCKETS = 16384
# Errors of operations whose peer went or was silent: LNet's users send them again.
LOST = (
    "the connection to the peer was lost", "the peer did not answer in time", "the peer cannot be reached", "no answer within",
)

# Lcores without work leave their CPUs to others: several nodes share few.
YIELD = ("--idle", "yield")


class Cannot(Exception):
    """Something that this machine lacks."""


class Failed(Exception):
    """Something went otherwise than it has to."""


def wait(what, done, seconds):
    """Waits until `done()` is true, and returns what it is."""
    end = time.monotonic() + seconds
    while not (r := done()):
        if time.monotonic() > end:
            raise Failed(f"{what}: not in {seconds} s")
        time.sleep(0.05)
    return r


def patience(seconds):
    """Options by which an operation ends when no answer comes for so long, in place of minutes."""
    return ["--tunable", f"lnet_transaction_timeout={seconds}", "--tunable", "lnet_retry_count=0"] if seconds else []


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Node:
    """A node that may be killed, and started again with the same arguments."""

    def __init__(self, lab, nid, arguments, within=(), at_start=None):
        self.lab, self.nid, self.within = lab, nid, [*within]
        self.arguments = ["node", "--nid", nid, *arguments]
        self.at_start, self.process, self.expected, self.spared = at_start, None, [], ()
        self.name = nid.split("@")[0]

    def start(self, seconds=30, within=None):
        self.said = self.lab.folder / f"{self.name}-{next(self.lab.serial)}"
        command = [*(self.within if within is None else within), self.lab.pollnd, *self.arguments]
        with self.said.open("w") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.lab.env)
        self.lab.nodes.append(self)
        if self.at_start:
            self.at_start(self)
        wait(f"{self.nid} up; it says: {self.text()[-600:]}", self.is_up, seconds)
        return self

    def is_up(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.nid} does not start: {self.text()[-600:]}")
        return " is up on " in self.text()

    def text(self):
        return self.said.read_text(errors="replace")

    @property
    def pid(self):
        return self.process.pid

    def runs(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.nid} has ended by itself with {self.process.returncode}: {self.text()[-900:]}")
        return True

    def kill(self):
        self.runs()
        self.process.kill()
        self.process.wait()
        self.fine()

    def fine(self):
        """Nothing in its log is an error or a panic."""
        bad = [l for l in self.text().splitlines() if " ERROR " in l or "panicked" in l or "PANIC" in l]
        bad = [l for l in bad if not any(e in l for e in self.expected)]
        if bad:
            raise Failed(f"{self.nid} says: {' | '.join(bad[:3])[:900]}")

    def stop(self, seconds=30):
        """Ends it in order: its last counts, of which nothing is out."""
        self.runs()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.nid} does not end in {seconds} s: {self.text()[-600:]}") from None
        text = self.text()
        if code or "pollnd: going down" not in text:
            raise Failed(f"{self.nid} ended with {code}: {text[-900:]}")
        self.fine()
        rows = (line.split() for line in text.splitlines())
        counts = Counter({r[0]: int(r[1]) for r in rows if len(r) == 2 and r[1].isdigit()})
        if left := {n: counts[n] for n in HOME if counts[n] and n not in self.spared}:
            raise Failed(f"{self.nid} ended, and left {left}")
        m = re.search(r"checked (\d+), wrong (\d+)", text)
        counts["checked"] = int(m[1]) if m else 0
        if m and m[2] != "0":
            raise Failed(f"{self.nid} got {m[2]} messages with wrong bytes")
        return counts

    # A look at one that runs.

    def command(self, *arguments):
        return [self.lab.pollnd, *arguments, "--node", str(self.pid)]

    def ask(self, *arguments, seconds=30):
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, env=self.lab.env, timeout=seconds, check=False,
        )
        if done.returncode:
            raise Failed(f"pollnd {' '.join(arguments)} of {self.nid}: {done.stdout.strip()} {done.stderr.strip()[-600:]}")
        return done.stdout

    def counts(self):
        sums = Counter()
        for lcore in json.loads(self.ask("stats", "--json"))["lcores"]:
            sums.update(lcore["counters"])
        return sums

    def holds(self):
        """Its own memory in KiB, descriptors and threads."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = {k: int(re.search(rf"^{k}:\s+(\d+)", status, re.M)[1]) for k in ("RssAnon", "Threads")}
        return found | {"descriptors": len(os.listdir(f"/proc/{self.pid}/fd"))}

    def lends(self):
        counts = self.counts()
        return {n: counts[n] for n in LENT if counts[n] and n not in self.spared}

    def rests(self, seconds=60):
        """Waits until nothing is lent or under way; what it then holds."""
        wait(f"{self.nid} at rest", lambda: self.runs() and not self.lends(), seconds)
        return self.holds()

    def as_before(self, before):
        """Compares what it holds with what it held at rest; what it holds, in words."""
        slack = SLACK | ({"RssAnon": SOCKETS} if "sockets" in self.arguments else {})

        def same():
            now = self.rests()
            return now if all(now[k] <= before[k] + slack[k] for k in before) else None

        try:
            now = wait("", same, 20)
        except Failed:
            raise Failed(f"{self.nid} holds {self.holds()}, {self.lends() or 'nothing lent'}; before {before}") from None
        return f"RssAnon {before['RssAnon']} to {now['RssAnon']} KiB"


class Bulk:
    """`pollnd put` or `get` of 1 MiB messages, or of others, through a node that runs."""

    def __init__(self, node, what, target, *more, timeout=100):
        self.what, self.node, self.target = what, node, target
        self.file = node.lab.folder / f"bulk-{next(node.lab.serial)}"
        command = node.command(what, target, "--json", "-w", "0.1", "--timeout", str(timeout), *(more or ("-t", "1000")))
        with self.file.open("w") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, env=node.lab.env)
        node.lab.bulks.append(self)

    def rows(self):
        for line in self.file.read_text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)

    def moved(self):
        """Messages that have ended well until now, as it has told."""
        rows = list(self.rows())
        whole = [r["messages"] for r in rows if "transfers" in r]
        return whole[-1] if whole else sum(r.get("messages", 0) for r in rows)

    def moves(self, seconds=30):
        """Waits until it has moved something; false if it has ended before."""
        wait(f"{self} moves", lambda: self.process.poll() is not None or self.moved() > 0, seconds)
        return self.process.poll() is None

    def error(self):
        return next((r["error"] for r in self.rows() if "error" in r), "")

    def end(self, seconds=60):
        """Waits for its end; its error, if it has one."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self} does not end in {seconds} s") from None
        if any(r.get("crc_bad") or r.get("tx_copied_bytes") for r in self.rows()):
            raise Failed(f"{self}: {list(self.rows())[-1]}")
        if code == 0:
            return ""
        return self.error() or "the node went"

    def interrupt(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def __str__(self):
        return f"{self.what} of {self.node.nid} with {self.target}"


def reason(error):
    """An error's kind: one of those that LNet's users live with."""
    for kind in LOST:
        if kind in error:
            return kind
    raise Failed(f"an operation ended with an error that is none of a peer's loss: {error}")


class Lab:
    """A folder, a network namespace, and the nodes in them; all ends with it."""

    def __init__(self, pollnd, folder):
        self.pollnd, self.folder = pollnd, folder
        folder.mkdir(parents=True, exist_ok=True)
        # In memory, as /run is: a disk that others write to would hold up a node that removes its files.
        self.run = Path(tempfile.mkdtemp(prefix="pollnd-faults-", dir="/run"))
        for old in folder.iterdir():
            if old.is_file() or old.is_socket():
                old.unlink()
        self.env = os.environ | {n: str(self.run) for n in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")}
        # An arena for each thread of the past says nothing about what is kept.
        self.env["MALLOC_ARENA_MAX"] = "1"
        self.serial, self.nodes, self.bulks, self.namespace = itertools.count(), [], [], None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for b in self.bulks:
            b.process.kill()
            b.process.wait()
        for n in self.nodes:
            if n.process.poll() is None:
                n.process.send_signal(signal.SIGCONT)
                n.process.kill()
                n.process.wait()
        shutil.rmtree(self.run, ignore_errors=True)
        if self.namespace:
            ip("netns", "del", self.namespace)

    def within(self):
        """A network namespace, and what runs a command in it."""
        if not self.namespace:
            # Others may run at the same time.
            name = f"pollnd-faults-{os.getpid()}-{self.folder.name}"
            ip("netns", "add", name)
            self.namespace = name
            ip("-n", name, "link", "set", "lo", "up")
        return ["ip", "netns", "exec", self.namespace]

    def vhost(self, server=False, pair=0, answer=1, more=()):
        """Two nodes on a vhost link: the backend, and the virtio_user end. With `server` the latter listens."""
        sock = self.folder / f"v{pair}.sock"
        back = f"net_vhost0,iface={sock},queues=1,tso=1" + (",client=1" if server else "")
        front = f"net_virtio_user0,path={sock},queues=1,queue_size=1024,mrg_rxbuf=1" + (",server=1" if server else "")
        rest = [*patience(answer), *YIELD, *more, "--", "--no-huge"]
        return Node(self, f"10.81.{pair}.1@tcp", ["--vdev", back, *rest]), Node(self, f"10.81.{pair}.2@tcp", ["--vdev", front, *rest])

    def tap(self, pair=0, answer=1, more=()):
        """A node on net_tap, and one on the kernel's sockets at the other side of the TAP."""
        within, tap, soon = self.within(), f"dtap{pair}", patience(answer)

        def addressed(_):
            shown = ["ip", "-n", self.namespace, "link", "show", tap]
            wait("the TAP", lambda: subprocess.run(shown, capture_output=True, check=False).returncode == 0, 20)
            ip("-n", self.namespace, "addr", "add", f"10.82.{pair}.1/24", "dev", tap)
            ip("-n", self.namespace, "link", "set", tap, "up")

        port = ["--vdev", f"net_tap0,iface={tap},mac=02:00:00:82:{pair:02x}:02", *soon, *YIELD, *more, "--", "--no-huge"]
        return (
            Node(self, f"10.82.{pair}.2@tcp", port, within, addressed),
            Node(self, f"10.82.{pair}.1@tcp", ["--carrier", "sockets", *soon], within),
        )

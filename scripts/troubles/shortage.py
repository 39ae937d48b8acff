"""Nodes that are short of something for a while: descriptors, room on a disk, huge pages."""

import contextlib
import os
import socket
import struct
import subprocess
import time
from pathlib import Path

from .kills import Between
from .nodes import Cannot, Failed, wait

RESERVE = Path(__file__).resolve().parents[1] / "huge-pages"
# Connections that a peer opens to a node that has descriptors for none.
STRANGERS = 64
# The first word of a pcap file with stamps in ns, and the length of its header and of each packet's.
PCAP, PCAP_HEADER, PCAP_RECORD = 0xA1B23C4D, 24, 16


def limit(node, soft):
    done = subprocess.run(["prlimit", "--pid", str(node.pid), f"--nofile={soft}:"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"prlimit: {done.stderr.strip()}")


def exhaust(node):
    """Lets the node have no descriptor beyond those that it has; the limit that it had."""
    had = int(next(l.split()[3] for l in Path(f"/proc/{node.pid}/limits").read_text().splitlines() if l.startswith("Max open files")))
    used = {int(n) for n in os.listdir(f"/proc/{node.pid}/fd")}
    limit(node, next(n for n in range(len(used) + 1) if n not in used))
    return had


class Strangers:
    """Connections to a node that say nothing."""

    def __init__(self, lab, node):
        code = (
            "import socket, sys, time\n"
            f"held = [socket.create_connection(('{node.name}', 988), 5) for _ in range({STRANGERS})]\n"
            "print('held', flush=True)\nsys.stdin.read()\n"
        )
        self.process = subprocess.Popen(
            [*lab.within(), "python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        if self.process.stdout.readline() != "held\n":
            raise Failed(f"connections to {node.nid}: {self.process.stderr.read()[-300:]}")

    def go(self):
        self.process.stdin.close()
        self.process.wait(20)


def descriptors(lab):
    """A node on kernel sockets, and one on virtio_user whose backend is killed, have none left for some seconds."""
    said = []
    port, kernel = lab.tap(answer=None)
    port.start()
    kernel.start()
    b = Between(port, kernel)
    held = b.warm()
    b.begin()
    before = kernel.counts()["accept_waits"]
    had = exhaust(kernel)
    strangers = Strangers(lab, kernel)
    moved = b.puts.moved()
    time.sleep(3)
    wait("bulk goes on", lambda: b.puts.moved() > moved, 20)
    limit(kernel, had)
    strangers.go()
    wait("it accepts again", lambda: kernel.counts()["accept_waits"] > before, 20)
    waits = kernel.counts()["accept_waits"] - before
    b.over()
    said.append(f"kernel sockets, {STRANGERS} connections that found none, {waits} waits: {b.home(dict(zip((port, kernel), held, strict=True)))}")
    back, front = lab.vhost()
    back.start()
    front.start()
    b = Between(front, back)
    held, _ = b.warm()
    b.begin()
    had = exhaust(front)
    back.kill()
    back.start()
    wait("virtio_user says that it has none", lambda: front.runs() and "no more descriptors" in front.text(), 20)
    limit(front, had)
    b.end()
    front.expected.append("no more descriptors")
    said.append(f"virtio_user, its backend killed meanwhile: {b.home({front: held})}")
    return " / ".join(said)


def packets(path):
    """Packets of a pcap file, to its very end."""
    data = path.read_bytes()
    order = next((o for o in "<>" if struct.unpack_from(f"{o}I", data)[0] == PCAP), None)
    if order is None:
        raise Failed(f"{path.name} is no pcap file with stamps in ns")
    at, count = PCAP_HEADER, 0
    while at < len(data):
        at += PCAP_RECORD + struct.unpack_from(f"{order}I", data, at + 8)[0]
        count += 1
    if at != len(data):
        raise Failed(f"{path.name} ends {at - len(data)} bytes before its last packet does")
    return count


def disk(lab):
    """--pcap and `pollnd capture` into 1 MiB, which they fill, and which is free again."""
    small = lab.folder / "small"
    small.mkdir(exist_ok=True)
    script = f'mount -t tmpfs -o size=1m tmpfs "{small}" && head -c 300000 /dev/zero >"{small}/other" && exec "$@"'
    back, front = lab.vhost(answer=None)
    back.within = ["unshare", "--mount", "sh", "-c", script, "sh"]
    back.arguments[back.arguments.index("--"):0] = ["--pcap", str(small / "all.pcap")]
    back.start()
    front.start()
    inside = Path(f"/proc/{back.pid}/root") / small.relative_to("/")
    b = Between(front, back)
    held = b.warm()
    b.begin()
    wait("the disk is full", lambda: back.counts()["port_capture_lost"] > 0, 30)
    times = lambda words: sum(words in l for l in back.text().splitlines())  # noqa: E731
    wait("it says so", lambda: times("No space left on device") == 1, 10)
    full = packets(inside / "all.pcap")
    # A capture finds no room either, and says so.
    failed = subprocess.run(
        back.command("capture", "--peer", front.name, "--out", str(small / "one.pcap"), "--seconds", "20"),
        capture_output=True, text=True, env=lab.env, check=False, timeout=60,
    )
    if failed.returncode != 1 or "No space left on device" not in failed.stderr:
        raise Failed(f"a capture on a full disk: {failed.returncode}, {failed.stderr.strip()}")
    moved = b.puts.moved()
    wait("bulk goes on", lambda: b.puts.moved() > moved, 20)
    (inside / "other").unlink()
    wait("it says that it goes on", lambda: times("goes on") == 1, 20)
    b.over()
    lost = back.counts()["port_capture_lost"]
    if (again := packets(inside / "all.pcap")) <= full:
        raise Failed(f"{full} packets in the file, and {again} when there was room again")
    if times("No space left on device") != 1:
        raise Failed(f"it said so {times('No space left on device')} times")
    return f"{again} packets in the file, {lost} counted as lost, said once; {b.home(dict(zip((front, back), held, strict=True)))}"


def huge_pages(lab):
    """A node on huge pages is killed; where they have gone it says so at once; where they are back it is up."""
    reserved = subprocess.run([RESERVE, "600"], capture_output=True, text=True, check=False)
    if reserved.returncode:
        raise Cannot(reserved.stdout.strip())
    files = lab.folder / "huge"
    files.mkdir(exist_ok=True)
    back, front = lab.vhost()
    # Files of huge pages are too many for a virtio_user end to show to its backend.
    back.arguments[-1:] = ["--huge-dir", str(files)]

    def mounted(size):
        script = f'mount -t hugetlbfs -o size={size} none "{files}" && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh"]

    back.within = mounted("600M")
    back.start()
    front.start()
    b = Between(front, back)
    b.works()
    b.begin()
    back.kill()
    for size in ("32M", "0"):
        with contextlib.suppress(Failed):
            back.start(within=mounted(size))
            raise Failed("")
        code, said = back.process.wait(20), back.text()
        if code != 1 or "nr_hugepages" not in said or "panicked" in said:
            raise Failed(f"with {size} of huge pages it ends with {code}: {said[-600:]}")
    back.start()
    b.end()
    held = front.rests()
    return f"named, exit code 1, with 32 MiB and with none; then {b.home({front: held})}"

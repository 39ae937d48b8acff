"""Processes that are killed, restarted and stopped under bulk, and links that go and come."""

import random
import signal
import time
from collections import Counter

from .nodes import Bulk, Failed, ip, reason, wait

# Times that a process is killed, and that it is restarted in order; times that a link goes.
KILLS, RESTARTS, FLAPS = 50, 10, 20
# Seconds that a process is stopped.
STOPPED = 60


class Between:
    """Bulk between a node that stays and one that does not."""

    def __init__(self, stays, goes):
        self.stays, self.goes, self.random = stays, goes, random.Random(14)
        self.well, self.lost, self.here, self.survived = 0, Counter(), 0, 0

    def begin(self):
        """PUTs and GETs by the one that stays, PUTs by the other; all under way."""
        self.puts = self.moving(self.stays, "put", self.goes)
        self.gets = self.moving(self.stays, "get", self.goes)
        self.theirs = self.moving(self.goes, "put", self.stays)
        time.sleep(self.random.uniform(0, 0.2))

    def moving(self, node, what, other):
        """Bulk that moves: asked for again while the peer is not there yet, as LNet's users do."""
        end = time.monotonic() + 30
        while True:
            bulk = Bulk(node, what, other.nid)
            if bulk.moves():
                return bulk
            error = bulk.end()
            self.lost[reason(error)] += 1
            if time.monotonic() > end:
                raise Failed(f"{bulk} is not under way in 30 s: {error}")
            time.sleep(0.1)

    def end(self):
        """Bulk across a restart ends with an error of a kind that is known; or it goes on, and is ended."""
        then = {b: b.moved() for b in (self.puts, self.gets, self.theirs)}
        for b, moved in then.items():
            wait(f"{b} fails or goes on", lambda b=b, m=moved: b.process.poll() is not None or b.moved() > m, 60)
            b.interrupt()
            error = b.end()
            self.well += b.moved()
            if "interrupted" in error:
                self.survived += 1
            # A node that was killed tells nothing of its own any more.
            elif b is not self.theirs:
                self.lost[reason(error)] += 1
        self.here += self.theirs.moved()

    def works(self):
        """Both ways again, as long as it takes."""
        for node, other in ((self.stays, self.goes), (self.goes, self.stays)):
            end = time.monotonic() + 30
            while error := Bulk(node, "put", other.nid, "-c", "4", timeout=10).end():
                if time.monotonic() > end:
                    raise Failed(f"{node.nid} does not reach {other.nid} in 30 s: {error}")
                time.sleep(0.1)
            self.well += 4
        self.here += 4

    def round(self, kill):
        self.begin()
        kill(self.goes)
        self.goes.start()
        self.end()

    def told(self):
        named = ", ".join(f"{n} with \"{why}\"" for why, n in sorted(self.lost.items()))
        went = f", {self.survived} went on" if self.survived else ""
        return f"{self.well} messages ended well, every byte checked; transfers that failed: {named or 'none'}{went}"

    def warm(self):
        """What is allocated once, and kept, is allocated."""
        self.works()
        self.begin()
        time.sleep(1)
        self.over()
        return self.stays.rests(), self.goes.rests()

    def over(self):
        """Ends bulk that nothing has happened to."""
        for b in (self.puts, self.gets, self.theirs):
            b.interrupt()
            error = b.end()
            if "interrupted" not in error:
                raise Failed(f"{b}: {error or 'ended early'}")
            self.well += b.moved()
        self.here += self.theirs.moved()

    def home(self, before):
        """Both again as they were, and ended in order; what it came to."""
        self.works()
        after = [f"{n.nid} {n.as_before(held)}" for n, held in before.items()]
        checked = self.stays.stop()["checked"]
        if self.goes.process.poll() is None:
            self.goes.stop()
        if checked < self.here:
            raise Failed(f"{self.here} PUTs to {self.stays.nid} ended well, and it has checked {checked}")
        return f"{self.told()}; {'; '.join(after)}"

    def rounds(self, count, kill):
        """So many times: what it came to, and that the one that stays holds what it held before."""
        before = None
        for n in range(count):
            self.round(kill)
            # What is allocated once, and kept, has been by then.
            if n == 2:
                before = self.stays.rests()
        return f"{count} times: {self.home({self.stays: before})}"


def vhost(lab, goes, kill, count, server=False):
    back, front = lab.vhost(server=server)
    back.start()
    front.start()
    stays, goes = (front, back) if goes == "back" else (back, front)
    return Between(stays, goes).rounds(count, kill)


def tap(lab, goes):
    port, kernel = lab.tap()
    port.start()
    kernel.start()
    stays, goes = (kernel, port) if goes == "port" else (port, kernel)
    return Between(stays, goes).rounds(KILLS, lambda n: n.kill())


def flap(lab):
    """The TAP goes down for a while, over and over; nothing is lost, for TCP sends it again."""
    port, kernel = lab.tap(answer=None)
    port.start()
    kernel.start()
    b = Between(port, kernel)
    held = b.warm()
    b.begin()
    for _ in range(FLAPS):
        ip("-n", lab.namespace, "link", "set", "dtap0", "down")
        time.sleep(b.random.uniform(0.05, 0.5))
        ip("-n", lab.namespace, "link", "set", "dtap0", "up")
        moved = b.puts.moved()
        wait("bulk goes on", lambda m=moved: b.puts.moved() > m or b.puts.process.poll() is not None, 30)
    b.over()
    return f"{FLAPS} times: {b.home(dict(zip((port, kernel), held, strict=True)))}"


def stopped(lab):
    """In each of four pairs one node does not run for a minute, and then goes on. Pages in the ring of a backend that does not
    run stay there: the operations that they are of end without them, counted as quarantined, and they are home afterwards."""
    pairs = []
    for n, (make, first) in enumerate(((lab.vhost, 0), (lab.vhost, 1), (lab.tap, 0), (lab.tap, 1))):
        nodes = make(pair=n, answer=20)
        for node in nodes:
            node.start().spared = ("quarantined",)
        b = Between(nodes[1 - first], nodes[first])
        pairs.append((b, dict(zip((b.stays, b.goes), b.warm(), strict=True))))
    for b, _ in pairs:
        b.begin()
        b.goes.process.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED)
    for b, _ in pairs:
        b.goes.process.send_signal(signal.SIGCONT)
    said = []
    for b, before in pairs:
        b.end()
        kept = sum(n.counts()["quarantined"] for n in before)
        said.append(f"{b.goes.nid} for {STOPPED} s, {kept} quarantined meanwhile: {b.home(before)}")
    return " / ".join(said)

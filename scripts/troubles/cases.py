"""The faults, by name."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from . import kills, shortage
from .kills import KILLS, RESTARTS


@dataclass(frozen=True)
class Fault:
    """A fault, and what plays it: in words, what it came to."""

    name: str
    what: str
    play: Callable


def kill(n):
    n.kill()


def stop(n):
    n.stop()


FAULTS = (
    Fault("kill-backend", "the vhost end killed under virtio_user", lambda l: kills.vhost(l, "back", kill, KILLS)),
    Fault("kill-tap", "the node on net_tap killed", lambda l: kills.tap(l, "port")),
    Fault("kill-virtio", "the virtio_user end killed", lambda l: kills.vhost(l, "front", kill, KILLS)),
    Fault("kill-sockets", "the node on kernel sockets killed", lambda l: kills.tap(l, "kernel")),
    Fault("stop", "a process stopped for a minute, either end of each link", kills.stopped),
    Fault(
        "restart-backend", "the vhost end restarted in order, or killed, where the virtio_user end listens",
        lambda l: kills.vhost(l, "back", lambda n, k=itertools.cycle((stop, kill)): next(k)(n), RESTARTS, server=True),
    ),
    Fault("flap", "the TAP down and up", kills.flap),
    Fault("descriptors", "none left for some seconds, on kernel sockets and on virtio_user", shortage.descriptors),
    Fault("disk", "full under --pcap and `pollnd capture`, and free again", shortage.disk),
    Fault("huge-pages", "gone when a node that was killed starts again", shortage.huge_pages),
)

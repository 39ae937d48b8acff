"""A guest under QEMU: starts, runs commands, loses its link, is killed."""

import json
import re
import shlex
import socket
import subprocess
import time

MACHINE = "q35,hpet=on,vmport=off,smbus=off,sata=off,usb=off"
# The guest's NIC, on the root bus.
SLOT, PCI = "5", "0000:00:05.0"
# Memory in MiB, and huge pages of 2 MiB in it.
MEMORY, HUGE = 1280, 256


class Failed(Exception):
    """Something went otherwise than it has to."""


class Line:
    """A socket of QEMU's, once QEMU has made it."""

    def __init__(self, path, seconds=30):
        self.socket, end = socket.socket(socket.AF_UNIX), time.monotonic() + seconds
        while True:
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > end:
                    raise Failed(f"QEMU has no {path} after {seconds} s") from None
                time.sleep(0.05)
        self.heard = b""

    def until(self, pattern, seconds):
        """Reads until the pattern is found; what stood before it, and the match."""
        end = time.monotonic() + seconds
        while not (m := re.search(pattern, self.heard)):
            left = end - time.monotonic()
            if left <= 0:
                raise Failed(f"no answer of the guest in {seconds} s; so far: {self.heard[-500:]!r}")
            self.socket.settimeout(left)
            try:
                got = self.socket.recv(65536)
            except TimeoutError:
                continue
            if not got:
                raise Failed("the guest has gone")
            self.heard += got
        before, self.heard = self.heard[: m.start()], self.heard[m.end() :]
        return before, m


class Guest:
    """A guest that runs."""

    def __init__(self, folder, image, nic, iommu=False, memory=(), within=()):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for old in ("agent", "qmp"):
            (folder / old).unlink(missing_ok=True)
        vmlinuz, initrd = image
        machine = MACHINE + (",kernel-irqchip=split" if iommu else "")
        append = "console=ttyS0 panic=-1 quiet" + (" intel_iommu=on" if iommu else "")
        command = [
            *within, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", machine, "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-smp", "2", "-m", f"{MEMORY}",
            "-kernel", str(vmlinuz), "-initrd", str(initrd), "-append", append,
            "-serial", f"file:{folder}/console",
            "-chardev", f"socket,id=agent,path={folder}/agent,server=on,wait=off", "-serial", "chardev:agent",
            "-qmp", f"unix:{folder}/qmp,server=on,wait=off",
            *(["-device", "intel-iommu,intremap=on,caching-mode=on,device-iotlb=on"] if iommu else []),
            *memory, *nic,
        ]
        (folder / "command").write_text(shlex.join(command) + "\n")
        self.errors = (folder / "qemu").open("w")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors)
        try:
            self.agent, self.qmp = Line(folder / "agent"), Line(folder / "qmp")
            self.qmp.until(rb"QMP.*\r\n", 30)
            self.monitor("qmp_capabilities")
            self.agent.until(rb"@@0@@\n", 120)
        except Failed as e:
            self.kill()
            raise Failed(f"{e}; {(folder / 'qemu').read_text()[-300:]}; console: {self.console()[-300:]}") from None

    def console(self):
        file = self.folder / "console"
        return file.read_text(errors="replace") if file.exists() else ""

    def monitor(self, what, **arguments):
        self.qmp.socket.sendall(json.dumps({"execute": what, "arguments": arguments}).encode())
        _, m = self.qmp.until(rb'\{"(return|error)":.*\r\n', 30)
        if m[1] == b"error":
            raise Failed(f"QEMU refuses {what}: {m[0].decode().strip()}")

    def run(self, command, seconds=120):
        """Runs a command line of the guest's shell: its exit code, and all that it said."""
        self.agent.socket.sendall(command.encode() + b"\n")
        said, m = self.agent.until(rb"\n@@(\d+)@@\n", seconds)
        return int(m[1]), said.decode(errors="replace")

    def good(self, command, seconds=120):
        code, said = self.run(command, seconds)
        if code:
            raise Failed(f"`{command}` in the guest ended with {code}: {said.strip()[-1500:]}")
        return said

    def driver(self, at=PCI):
        """The driver that the NIC is bound to."""
        return self.good(f"basename $(readlink /sys/bus/pci/devices/{at}/driver)").strip()

    def huge(self):
        """Huge pages of 2 MiB that are reserved."""
        return int(self.good("cat /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"))

    def interfaces(self):
        """Kernel interfaces, but for loopback."""
        return [i for i in self.good("ls /sys/class/net").split() if i != "lo"]

    def link(self, up):
        self.monitor("set_link", name="net0", up=up)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.errors.close()

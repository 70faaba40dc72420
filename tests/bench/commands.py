# SPDX-License-Identifier: MIT
"""Whole commands against their peers: one-sector reads, and boot to agent against a bare QEMU."""
import json
import os
import shlex
import socket
import statistics
import subprocess
import time


def timed(argv):
    start = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def pairs(name, peer, ours, theirs):
    return {"what": name, "peer": peer,
            "ours_ms": statistics.median(ours) * 1e3, "peer_ms": statistics.median(theirs) * 1e3,
            "ratio": statistics.median(o / t for o, t in zip(ours, theirs))}


def measure_read(folder, rounds):
    """`pv-disk read` of one sector against qemu-io on the same image."""
    image = os.path.join(folder, "read.img")
    with open(image, "wb") as f:
        f.truncate(64 << 20)
    other = os.path.join(folder, "peer.img")
    with open(other, "wb") as f:
        f.truncate(64 << 20)
    subprocess.run(["pv-disk", "serve", "bench", "--image", image], check=True, capture_output=True)
    ours, theirs = [], []
    for _ in range(max(rounds, 9) * 5):
        ours.append(timed(["pv-disk", "read", "bench"]))
        theirs.append(timed(["qemu-io", "-f", "raw", "-c", "read 0 512", other]))
    subprocess.run(["pv-disk", "close", "bench"], check=True, capture_output=True)
    return [pairs("pv-disk read of one sector", "qemu-io -c 'read 0 512'", ours, theirs)]


class Lines:
    """A JSON-lines peer on a Unix socket."""

    def __init__(self, path):
        deadline = time.monotonic() + 10
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)
        self.file = self.socket.makefile("rb")

    def send(self, message):
        self.socket.sendall(message)

    def until(self, wanted):
        for line in self.file:
            line = line.lstrip(b"\xff").strip()
            if line and wanted(json.loads(line)):
                return
        raise RuntimeError("the peer has closed")


def bare_boot(argv, folder, number):
    """The same QEMU without any of our processes: spawn to the agent's first answer."""
    own = os.path.join(folder, f"bare{number}")
    os.mkdir(own)
    old = next(a for a in argv if a.endswith("/ga.sock") or "/ga.sock," in a)
    directory = old.split("path=")[1].split("/ga.sock")[0]
    argv = [a.replace(directory, own) for a in argv]
    start = time.monotonic()
    qemu = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
    try:
        qmp = Lines(os.path.join(own, "qmp.sock"))
        agent = Lines(os.path.join(own, "ga.sock"))
        qmp.send(b'{"execute":"qmp_capabilities"}\n')
        qmp.until(lambda m: m.get("event") == "VSERPORT_CHANGE" and m["data"]["open"])
        agent.send(b'\xff{"execute":"guest-sync-delimited","arguments":{"id":7}}\n')
        agent.until(lambda m: m.get("return") == 7)
        return time.monotonic() - start
    finally:
        qemu.kill()
        qemu.wait()


def measure_boot(folder, rounds):
    """`pv-vm boot`, whole process, against the QEMU command line that it runs."""
    ours, theirs = [], []
    for number in range(rounds):
        subprocess.run(["pv-vm", "create", "bench"], check=True, capture_output=True)
        argv = subprocess.run(["pv-vm", "argv", "bench", "--json"], check=True, capture_output=True)
        argv = json.loads(argv.stdout)["argv"]
        argv = argv if isinstance(argv, list) else shlex.split(argv)
        ours.append(timed(["pv-vm", "boot", "bench"]))
        subprocess.run(["pv-vm", "close", "bench"], check=True, capture_output=True)
        theirs.append(bare_boot(argv, folder, number))
    return [pairs("pv-vm boot to agent", "bare QEMU, same guest", ours, theirs)]


def show(rows):
    for row in rows:
        print(f"{row['what']:<28} {row['ours_ms']:>9.1f} ms   {row['peer']:<26} "
              f"{row['peer_ms']:>9.1f} ms   ratio {row['ratio']:.2f}")

# SPDX-License-Identifier: MIT
"""The NBD servers that are compared: how each is started on one image, and how its CPU is read."""
import json
import os
import subprocess
import time


def wait_socket(path, process):
    """Peers say nothing when they are ready: wait until the socket is there."""
    deadline = time.monotonic() + 10
    while not os.path.exists(path):
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"server did not come up: {process.args}")
        time.sleep(0.01)


class Server:
    """One server process; cpu_ns() is the kernel's account of all its threads."""

    def __init__(self, name, argv, socket):
        self.name, self.socket = name, socket
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        self.pid = self.process.pid
        wait_socket(socket, self.process)
        self.uri = f"nbd+unix:///?socket={socket}"

    def cpu_ns(self):
        """User and system time of all threads, those that have ended included (proc(5), stat)."""
        with open(f"/proc/{self.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        ticks = int(fields[11]) + int(fields[12])
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        if os.path.exists(self.socket):  # nbdkit leaves it
            os.unlink(self.socket)


class Provium(Server):
    """Our own server, through pv-disk as a user starts it."""

    def __init__(self, name, source):
        out = subprocess.run(["pv-disk", "serve", name, *source], check=True, capture_output=True)
        disk = json.loads(out.stdout)["disk"]
        self.name, self.uri, self.pid = name, disk["uri"], disk["pid"]

    def stop(self):
        subprocess.run(["pv-disk", "close", self.name], check=True, capture_output=True)


def start(name, image, folder):
    """Starts the named server on the image."""
    socket = os.path.join(folder, f"{name}.sock")
    nbdkit = ["nbdkit", "-f", "-U", socket]
    qemu = ["qemu-nbd", "-t", "-e", "16", "-k", socket]
    raw = f"driver=raw,file.driver=file,file.filename={image},file.aio=io_uring"
    debug = (f"driver=raw,file.driver=blkdebug,file.image.driver=file,"
             f"file.image.filename={image},file.image.aio=io_uring")
    commands = {
        "nbdkit": nbdkit + ["file", image],
        "nbdkit-filters": nbdkit + ["--filter=error", "--filter=delay", "file", image],
        "qemu-nbd": qemu + ["--image-opts", raw],
        "qemu-blkdebug": qemu + ["--image-opts", debug],
        "qemu-storage-daemon": [
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=file,filename={image},aio=io_uring",
            "--blockdev", "driver=raw,node-name=disk,file=file",
            "--nbd-server", f"addr.type=unix,addr.path={socket},max-connections=16",
            "--export", "type=nbd,id=export,node-name=disk,name=,writable=on"],
        "nbdkit-memory": nbdkit + ["memory", str(os.path.getsize(image))],
        "nbdkit-null": nbdkit + ["null", str(os.path.getsize(image))],
    }
    size = str(os.path.getsize(image))
    overlay = os.path.join(folder, "overlay")
    ours = {
        "provium": ["--image", image],
        "provium-bare": ["--image", image, "--no-fault"],
        "provium-layers": ["--image", image, "--layer", "stats", "--layer", "fault",
                           "--layer", f"cow:file={overlay}"],
        "provium-memory": ["--memory", size],
        "provium-blank": ["--memory", size],
    }
    if os.path.exists(overlay):
        os.unlink(overlay)
    if name in ours:
        server = Provium(name, ours[name])
    else:
        server = Server(name, commands[name], socket)
    if name.endswith("-memory"):
        subprocess.run(["nbdcopy", image, server.uri], check=True)
    return server

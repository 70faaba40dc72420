# SPDX-License-Identifier: MIT
"""vhost-user-blk: our server against qemu-storage-daemon's export of the same raw file, both in the
page cache, both under pv-vhost-load. Alternating runs; ratios are medians of what each round
gives."""
import json
import os
import subprocess

import nbd
import servers

WORKLOADS = {
    "4k randread qd32": ["--op", "read", "--bs", "4k", "--depth", "32", "--random"],
    "4k randread qd1": ["--op", "read", "--bs", "4k", "--depth", "1", "--random"],
    "256k read qd4": ["--op", "read", "--bs", "256k", "--depth", "4", "--sequential"],
    "4k randwrite qd32": ["--op", "write", "--bs", "4k", "--depth", "32", "--random"],
}
# What is wanted of ours against QEMU's.
WANTED = {"4k randread qd32": 1.5, "4k randread qd1": 1.2, "256k read qd4": 1.2}
OURS, QEMU = "provium-vhost", "qsd-vhost"


class Provium(servers.Provium):
    """Ours, as a user starts it."""

    def __init__(self, image):
        out = subprocess.run(["pv-disk", "serve", "vhost", "--image", image,
                              "--transport", "vhost-user"], check=True, capture_output=True,
                             stdin=subprocess.DEVNULL)
        disk = json.loads(out.stdout)["disk"]
        self.name, self.socket, self.pid = "vhost", disk["vhost_socket"], disk["pid"]


def storage_daemon(image, folder):
    socket = os.path.join(folder, "vhost.sock")
    return servers.Server(QEMU, [
        "qemu-storage-daemon",
        "--blockdev", f"driver=file,node-name=file,filename={image},aio=io_uring,cache.direct=off",
        "--blockdev", "driver=raw,node-name=disk,file=file",
        "--export", "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,"
                    f"addr.path={socket},writable=on,num-queues=1"], socket)


def start(name, image, folder):
    return Provium(image) if name == OURS else storage_daemon(image, folder)


def run(server, options, seconds):
    """(IOPS, server CPU in microseconds per request) of one run."""
    out = subprocess.run(["pv-vhost-load", server.socket, *options, "--seconds", str(seconds),
                          "--server-pid", str(server.pid)], check=True, capture_output=True)
    told = json.loads(out.stdout)
    if told["errors"] != 0:
        raise RuntimeError(f"{told['errors']} requests failed: {told}")
    return told["iops"], told["server_cpu_us_per_request"]


def show(table):
    for row in table:
        wanted = WANTED.get(row["workload"]) if row["server"] == QEMU else None
        judged = "" if wanted is None else f" (wanted {wanted:.1f})"
        print(f"{row['workload']:<18} {row['server']:<14} {row['iops']['median']/1e3:8.1f} kIOPS "
              f"{row['cpu_us']['median']:7.2f} us CPU; ours/its {row['iops_ratio']:5.2f}, "
              f"CPU {row['cpu_ratio']:5.2f}{judged}", flush=True)


def measure(folder, rounds, seconds, size):
    image = os.path.join(folder, "vhost.img")
    nbd.make_image(image, size)
    names = [OURS, QEMU]
    results = {workload: {name: [] for name in names} for workload in WORKLOADS}
    for number in range(rounds):
        # Both servers in turn for each workload: the pairs of a ratio are close in time.
        for workload, options in WORKLOADS.items():
            for name in names if number % 2 == 0 else reversed(names):
                server = start(name, image, folder)
                try:
                    results[workload][name].append(run(server, options, seconds))
                finally:
                    server.stop()
    os.unlink(image)
    table = nbd.rows(results, OURS, [])
    show(table)
    return table

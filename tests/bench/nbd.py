# SPDX-License-Identifier: MIT
"""Alternating fio runs against NBD servers: medians, min and max, server CPU per request."""
import json
import os
import statistics
import subprocess

import servers

WORKLOADS = {
    "4k randread qd32": ["--rw=randread", "--bs=4k", "--iodepth=32"],
    "4k randread qd1": ["--rw=randread", "--bs=4k", "--iodepth=1"],
    "256k read qd4": ["--rw=read", "--bs=256k", "--iodepth=4"],
    "4k randwrite qd32": ["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    "256k write qd4": ["--rw=write", "--bs=256k", "--iodepth=4"],
}
READS = [name for name in WORKLOADS if "write" not in name]
# Group: ours first, then those it is compared with, and the workloads. "best" are the peers whose
# best one is the measure.
GROUPS = {
    "file": {"servers": ["provium", "nbdkit", "nbdkit-filters", "qemu-nbd", "qemu-storage-daemon",
                         "qemu-blkdebug"],
             "best": ["nbdkit", "nbdkit-filters", "qemu-nbd", "qemu-storage-daemon"],
             "workloads": list(WORKLOADS)},
    "memory": {"servers": ["provium-memory", "nbdkit-memory"], "best": ["nbdkit-memory"],
               "workloads": list(WORKLOADS)},
    "null": {"servers": ["provium-blank", "nbdkit-null"], "best": ["nbdkit-null"],
             "workloads": READS},
    "layers": {"servers": ["provium-layers", "provium-bare"], "best": ["provium-bare"],
               "workloads": list(WORKLOADS)},
}


def start_fio(server, options, seconds):
    return subprocess.Popen(
        ["fio", "--name=bench", "--ioengine=nbd", f"--uri={server.uri}", "--time_based",
         f"--runtime={int(seconds * 1000)}ms", "--norandommap", "--randrepeat=0",
         "--output-format=json", *options], stdout=subprocess.PIPE)


def finish_fio(job, reads):
    """What fio says of its one job."""
    text = job.communicate()[0].decode()
    if job.returncode != 0:
        raise RuntimeError(f"fio failed: {text}")
    return json.loads(text[text.index("{"):])["jobs"][0]["read" if reads else "write"]


def fio(server, options, seconds):
    """(IOPS, server CPU in microseconds per request) of one run."""
    before = server.cpu_ns()
    side = finish_fio(start_fio(server, options, seconds), "write" not in options[0])
    used = server.cpu_ns() - before
    return side["iops"], used / 1000 / max(side["total_ios"], 1)


def make_image(path, size):
    """An image with every block allocated and in the page cache."""
    with open(path, "wb") as image:
        block = os.urandom(1 << 20)
        for _ in range(size >> 20):
            image.write(block)


def measure(folder, names, workloads, rounds, seconds, size):
    """results[workload][server] = list of (iops, cpu_us), the servers in turn within each round."""
    image = os.path.join(folder, "bench.img")
    make_image(image, size)
    results = {w: {n: [] for n in names} for w in workloads}
    for round_number in range(rounds):
        for name in names if round_number % 2 == 0 else reversed(names):
            server = servers.start(name, image, folder)
            try:
                for workload in workloads:
                    results[workload][name].append(fio(server, WORKLOADS[workload], seconds))
            finally:
                server.stop()
    os.unlink(image)
    return results


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def best(runs):
    """The better of several peers within each round: (IOPS, CPU)."""
    return [(max(r[0] for r in peers), min(r[1] for r in peers)) for peers in zip(*runs)]


def rows(results, ours, best_of):
    """One row a workload and server, with the ratios to ours; last the best of the peers."""
    table = []
    for workload, by_server in results.items():
        own = by_server[ours]
        peers = [by_server[name] for name in best_of if name in by_server]
        if len(peers) > 1:
            by_server = {**by_server, "best of peers": best(peers)}
        for name, runs in by_server.items():
            iops = summary([r[0] for r in runs])
            cpu = summary([r[1] for r in runs])
            table.append({
                "workload": workload, "server": name, "iops": iops, "cpu_us": cpu,
                # pair by pair within a round, so that a change of the machine's speed cancels out
                "iops_ratio": statistics.median(o[0] / r[0] for o, r in zip(own, runs)),
                "cpu_ratio": statistics.median(o[1] / r[1] for o, r in zip(own, runs)),
            })
    return table

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
}


def fio(server, options, seconds):
    """(IOPS, server CPU in microseconds per request) of one run."""
    before = server.cpu_ns()
    out = subprocess.run(
        ["fio", "--name=bench", "--ioengine=nbd", f"--uri={server.uri}", "--time_based",
         f"--runtime={seconds}", "--norandommap", "--randrepeat=0", "--output-format=json",
         *options],
        check=True, capture_output=True)
    used = server.cpu_ns() - before
    text = out.stdout.decode()
    job = json.loads(text[text.index("{"):])["jobs"][0]
    side = job["write"] if "write" in options[0] else job["read"]
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


def rows(results, ours):
    """One row a workload and server, with the ratios to ours."""
    table = []
    for workload, by_server in results.items():
        own = by_server[ours]
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

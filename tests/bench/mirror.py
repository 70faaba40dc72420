# SPDX-License-Identifier: MIT
"""A mirror of two raw images against QEMU's blkverify on the same two, and against one leg alone.
Alternating runs, all in the page cache; ratios are medians of what each round gives."""
import json
import os
import shutil

import nbd
import servers

WORKLOADS = ["4k randread qd32", "256k read qd4", "4k randwrite qd32", "256k write qd4"]
# What is wanted of ours against each: reads and writes.
WANTED = {"qemu-blkverify": (3.0, 2.0), "one leg": (0.9, None)}


class Mirror(servers.Provium):
    """Ours, as a user starts it."""

    def __init__(self, name, test, reference):
        out = servers.subprocess.run(
            ["pv-verify", "mirror", name, "--test", test, "--reference", reference],
            check=True, capture_output=True, stdin=servers.subprocess.DEVNULL)
        disk = json.loads(out.stdout)["disk"]
        self.name, self.uri, self.pid = name, disk["uri"], disk["pid"]


def blkverify(name, test, reference, folder):
    """QEMU's, both legs with io_uring."""
    leg = [{"driver": "raw", "file": {"driver": "file", "filename": path, "aio": "io_uring"}}
           for path in (test, reference)]
    node = json.dumps({"driver": "blkverify", "test": leg[0], "raw": leg[1]})
    socket = os.path.join(folder, "verify.sock")
    return servers.Server(name, ["qemu-nbd", "-t", "-e", "16", "-k", socket, "json:" + node],
                          socket)


def start(name, test, reference, folder):
    if name == "provium-mirror":
        return Mirror("mirror", test, reference)
    if name == "qemu-blkverify":
        return blkverify(name, test, reference, folder)
    return servers.Provium("leg", ["--image", test])


def show(table):
    for row in table:
        wanted = WANTED.get(row["server"], (None, None))["write" in row["workload"]]
        judged = "" if wanted is None else f" (wanted {wanted:.1f})"
        print(f"{row['workload']:<18} {row['server']:<16} {row['iops']['median']/1e3:8.1f} kIOPS "
              f"{row['cpu_us']['median']:7.2f} us CPU; ours/its {row['iops_ratio']:5.2f}{judged}",
              flush=True)


def measure(folder, rounds, seconds, size):
    test, reference = (os.path.join(folder, name) for name in ("test.img", "reference.img"))
    nbd.make_image(test, size)
    shutil.copy(test, reference)
    names = ["provium-mirror", "qemu-blkverify", "one leg"]
    results = {w: {n: [] for n in names} for w in WORKLOADS}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            server = start(name, test, reference, folder)
            try:
                for workload in WORKLOADS:
                    results[workload][name].append(
                        nbd.fio(server, nbd.WORKLOADS[workload], seconds))
            finally:
                server.stop()
            if name == "one leg":  # the other one has not seen these writes
                shutil.copy(test, reference)
    for path in (test, reference):
        os.unlink(path)
    table = nbd.rows(results, names[0], [])
    show(table)
    return table

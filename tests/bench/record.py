# SPDX-License-Identifier: MIT
"""What a log costs: writes to one disk with and without the record layer, in alternating runs."""
import os

import nbd
import servers

WORKLOADS = ["4k randwrite qd32", "256k write qd4"]
NAMES = ["plain", "record"]


def start(name, image, log):
    layers = ["--layer", f"record:file={log}"] if name == "record" else []
    return servers.Provium(name, ["--image", image, *layers])


def measure(folder, rounds, seconds, size=256 << 20):
    """Rows a workload; `record` against `plain` of the same round, which one is first in turn."""
    image, log = os.path.join(folder, "bench.img"), os.path.join(folder, "bench.log")
    nbd.make_image(image, size)
    results = {w: {n: [] for n in NAMES} for w in WORKLOADS}
    for number in range(rounds):
        for workload in WORKLOADS:
            for name in NAMES if number % 2 == 0 else reversed(NAMES):
                server = start(name, image, log)
                try:
                    run = nbd.fio(server, nbd.WORKLOADS[workload], seconds)
                finally:
                    server.stop()
                    if os.path.exists(log):
                        os.unlink(log)
                results[workload][name].append(run)
    os.unlink(image)
    return nbd.rows(results, "record", ["plain"])

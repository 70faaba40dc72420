# SPDX-License-Identifier: MIT
"""Many VMs at once: 16 booted by one command, then by 16 commands, on whatever processors there
are. All must come up; what a supervisor needs and how long the teardown takes is shown with it."""
import json
import subprocess
import time

COUNT = 16


def documents(*argv):
    done = subprocess.run(argv, check=True, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    return [json.loads(line) for line in done.stdout.splitlines()]


def create():
    names = [f"batch{number}" for number in range(COUNT)]
    for name in names:
        documents("pv-vm", "create", name)
    return names


def by_one(names):
    return documents("pv-vm", "boot", *names)


def by_many(names):
    boots = [subprocess.Popen(["pv-vm", "boot", name], stdout=subprocess.PIPE, text=True,
                              stdin=subprocess.DEVNULL) for name in names]
    answers = [boot.communicate()[0] for boot in boots]
    if any(boot.returncode for boot in boots):
        raise RuntimeError("not all VMs have booted: " + " ".join(answers))
    return [json.loads(answer) for answer in answers]


def private_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        sizes = dict(line.split(":") for line in list(rollup)[1:])
    return {name: int(sizes[name].split()[0]) for name in ("Rss", "Pss")}


def measure():
    rows = []
    for what, boot in (("one command", by_one), (f"{COUNT} commands", by_many)):
        names = create()
        start = time.monotonic()
        booted = boot(names)
        took = time.monotonic() - start
        memory = [private_kib(document["vm"]["supervisor_pid"]) for document in booted]
        start = time.monotonic()
        documents("pv-vm", "close", "--all")
        row = {"what": what, "vms": len(booted), "s": took, "close_s": time.monotonic() - start,
               "slowest_s": max(document["vm"]["boot_ms"] for document in booted) / 1e3,
               "rss_kib": max(size["Rss"] for size in memory),
               "pss_kib": max(size["Pss"] for size in memory)}
        rows.append(row)
        print(f"{row['vms']} VMs by {what:<12} {took:6.1f} s, slowest {row['slowest_s']:6.1f} s, "
              f"closed in {row['close_s']:.1f} s; supervisor at most {row['rss_kib']} KiB "
              f"resident, {row['pss_kib']} KiB of its own share", flush=True)
    return rows

# SPDX-License-Identifier: MIT
"""Snapshots against booting: the same guest booted and restored in turn, whole commands; how long a
take lets it stand still, what one needs, and how many go on from one at once."""
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import time

CLONES = 100
HELPER = pathlib.Path(__file__).resolve().parents[2] / "lib/share/provium.bash"
BUILDER = "pv-vm create base | pv-vm boot"


def run(*argv, text=None):
    done = subprocess.run(argv, check=True, capture_output=True, text=True, input=text or "")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def timed(*argv):
    start = time.monotonic()
    documents = run(*argv)
    return 1e3 * (time.monotonic() - start), documents[-1] if documents else {}


def close(*names):
    run("pv-vm", "close", *names)


def boot(name):
    run("pv-vm", "create", name)
    return timed("pv-vm", "boot", name)[0]


def memory_kib(pids):
    """What the processes have for themselves, the shared parts shared out."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return total


def show(what, values, unit="ms"):
    print(f"{what:<44} {statistics.median(values):9.1f} {unit} "
          f"({min(values):.1f}-{max(values):.1f})", flush=True)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def twenty_tests(folder):
    """Seconds for a BATS file whose 20 tests each have a VM of their own from the fixture."""
    tests = "".join(f"@test '{i}' {{ pv-vm run v -- sh -c '[ ! -e /tmp/x ] && touch /tmp/x'; }}\n"
                    for i in range(20))
    path = os.path.join(folder, "twenty.bats")
    shutil.copy(HELPER, folder)
    with open(path, "w", encoding="ascii") as file:
        file.write("load provium\n"
                   f"setup_file() {{ pv_fixture bench -- sh -c '{BUILDER}'; }}\n"
                   f"setup() {{ pv_scope; pv_restore v; }}\n{tests}")
    return timed("bats", "--tap", path)[0] / 1e3


def measure(folder, rounds):
    snap = os.path.join(folder, "base.snap")
    os.environ["PV_FIXTURE_DIR"] = os.path.join(folder, "fixtures")
    boots, restores, paused, stopped, takes = [], [], [], [], []
    run("sh", "-c", f"{BUILDER} && pv-snap take base {snap}")
    for _ in range(rounds):
        boots.append(boot("fresh"))
        ms, document = timed("pv-snap", "take", "fresh", os.path.join(folder, "one.snap"))
        takes.append(ms)
        paused.append(document["snap"]["paused_ms"])
        size = document["snap"]["size_bytes"]
        run("pv-snap", "delete", os.path.join(folder, "one.snap"))
        _, document = timed("pv-snap", "take", "fresh", os.path.join(folder, "one.snap"), "--stop")
        stopped.append(document["snap"]["paused_ms"])
        run("pv-snap", "delete", os.path.join(folder, "one.snap"))
        close("fresh")
        restores.append(timed("pv-snap", "restore", snap, "again")[0])
        close("again")
    rows = {"boot": show("boot to agent", boots), "restore": show("restore to agent", restores),
            "take": show("take, whole command", takes), "paused": show("take: it stood still",
                                                                       paused),
            "stop": show("take --stop: it stood still", stopped)}
    rows["ratio"] = rows["boot"]["median"] / rows["restore"]["median"]
    rows["size_bytes"] = size
    print(f"a restore takes 1/{rows['ratio']:.1f} of a boot; a snapshot {size / 1e6:.1f} MB")

    hits = []
    command = ("pv-snap", "fixture", "bench", "--json", "--", "sh", "-c", BUILDER)
    run(*command)
    for _ in range(rounds):
        ms, document = timed(*command)
        hits.append(ms)
    rows["hit"] = show("a fixture that is there", hits)
    twenty_tests(folder)  # builds its fixture
    rows["tests"] = show("20 tests, each on a fresh VM", [twenty_tests(folder) for _ in range(3)],
                         "s")

    start = time.monotonic()
    clones = run("pv-snap", "clone", snap, "--count", str(CLONES), "--jobs", "1")
    took = time.monotonic() - start
    pids = [clone["vm"][key] for clone in clones for key in ("pid", "supervisor_pid")]
    rows["clones"] = {"count": len(clones), "ms_each": 1e3 * took / CLONES,
                      "kib": memory_kib(pids)}
    print(f"{len(clones)} clones one after another: {rows['clones']['ms_each']:.1f} ms each, "
          f"{rows['clones']['kib'] / 1024 / len(clones):.1f} MiB each, all alive")
    run("pv-vm", "close", "--all")
    return rows

# SPDX-License-Identifier: MIT
"""Bytes into a guest and out of it against what a virtio-serial port carries raw, which is `cat`
of a connected port to /dev/null in the guest; and commands by both ways."""
import json
import os
import statistics
import subprocess
import time

SIZE = 1 << 30


def run(*argv, **more):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, **more).stdout


def mib_per_s(start):
    return SIZE / (1 << 20) / (time.monotonic() - start)


def raw(source):
    """Over a data port, nothing but `cat` at its end."""
    start = time.monotonic()
    with open(source, "rb") as data:
        run("pv-vm", "run", "bench", "--raw", "--stdin", "--", "sh", "-c", "cat >/dev/null",
            stdin=data)
    return mib_per_s(start)


def transfer(*words):
    return json.loads(run("pv-vm", *words))["transfer"]["mib_per_s"]


def latency(*words):
    start = time.monotonic()
    run("pv-vm", *words)
    return (time.monotonic() - start) * 1e3


def measure(folder, rounds):
    source, back = os.path.join(folder, "source"), os.path.join(folder, "back")
    with open(source, "wb") as data:
        for _ in range(SIZE >> 20):
            data.write(os.urandom(1 << 20))
    run("pv-vm", "create", "bench", "--memory", "3G")
    try:
        run("pv-vm", "boot", "bench")
        rows = []
        for _ in range(max(rounds // 3, 1)):
            row = {"raw": raw(source)}
            for key, flags in {"": [], "_no_check": ["--no-check"]}.items():
                row["put" + key] = transfer("put", "bench", source, "/tmp/x", *flags)
                row["get" + key] = transfer("get", "bench", "/tmp/x", back, *flags)
                run("pv-vm", "run", "bench", "--", "rm", "/tmp/x")  # no room for two
            rows.append(row)
        commands = {"run of true": ("run", "bench", "--", "true"),
                    "run --raw of true": ("run", "bench", "--raw", "--", "true"),
                    "info": ("info", "bench")}
        latencies = {name: [] for name in commands}
        for _ in range(30):
            for name, words in commands.items():
                latencies[name].append(latency(*words))
    finally:
        subprocess.run(["pv-vm", "close", "bench"], stdout=subprocess.DEVNULL, check=False)
        for path in (source, back):
            if os.path.exists(path):
                os.unlink(path)
    result = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    ratios = {key: statistics.median(row[key] / row["raw"] for row in rows) for key in rows[0]}
    for key, rate in result.items():
        print(f"1 GiB {key:<14} {rate:>7.1f} MiB/s   {ratios[key]:.2f} of raw")
    median_ms = {name: statistics.median(times) for name, times in latencies.items()}
    for name, ms in median_ms.items():
        print(f"{name:<18} {ms:>6.1f} ms")
    return {"mib_per_s": result, "of_raw": ratios, "median_ms": median_ms}

# SPDX-License-Identifier: MIT
"""What the fault engine costs and how exact it is: rules that do not fire, a journal under a
hundred thousand faults a second, rule changes under load, thousands of delays at once."""
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time

import nbd
import servers

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crash"))
from nbd_client import READ, Client  # noqa: E402  pylint: disable=wrong-import-position

LOAD = nbd.WORKLOADS["4k randread qd32"]
# The million lie one in every KiB: what reads the other sectors needs requests of 512 bytes, and is
# compared with the same requests without rules.
NEAR = LOAD + ["--size=768M"]
BETWEEN = ["--rw=randread", "--bs=512", "--blockalign=1024", "--iodepth=32", "--size=768M"]
LOADS = {"no layer": NEAR, "idle": NEAR, "1,000 ranges": NEAR, "1,000 rules": NEAR,
         "no layer, 512": BETWEEN, "1,000,000 bad sectors": BETWEEN}
CHANGES = 1000


def call(*words, **options):
    """The last document that a command prints."""
    out = subprocess.run(words, check=True, capture_output=True, **options).stdout
    return json.loads(out.splitlines()[-1])


class Control:
    """The control socket of a disk: a request a line, an answer a line."""

    def __init__(self, name):
        path = call("pv-disk", "info", name)["disk"]["control"]
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.lines = self.sock.makefile("r")

    def ask(self, **request):
        self.sock.sendall((json.dumps(request) + "\n").encode())
        return json.loads(self.lines.readline())


def many_rules(count, size):
    """Bad places in the last eighth of the disk, which the load leaves alone."""
    first = size // 8 * 7
    step = (size - first) // count // 512 * 512
    return [[first + i * step, 512] for i in range(count)]


def arm(case, size):
    rule = {"match": {"op": ["read"]}, "do": {"kind": "error"}}
    if case == "1,000 ranges":
        rules = [{**rule, "match": {"op": ["read"], "ranges": many_rules(1000, size)}}]
    elif case == "1,000 rules":
        rules = [{**rule, "match": {"op": ["read"], "ranges": [r]}} for r in many_rules(1000, size)]
    elif case == "1,000,000 bad sectors":
        # One in every KiB of the first 977 MiB: the load reads what lies between two of them.
        rules = [{**rule, "match": {"op": ["read"],
                                    "ranges": [[i * 1024 + 512, 512] for i in range(1_000_000)]}}]
    else:
        return
    subprocess.run(["pv-fault", "add", "--disk", "cost", "--rules", "-"], check=True,
                   input="\n".join(json.dumps(r) for r in rules).encode(), capture_output=True)


def cost(folder, rounds, seconds):
    """4k random reads in the first part of the disk, each case against the bare disk."""
    image, size = os.path.join(folder, "cost.img"), 1 << 30
    nbd.make_image(image, size)
    cases = list(LOADS)
    runs = {case: [] for case in cases}
    for round_number in range(rounds):
        for case in cases if round_number % 2 == 0 else reversed(cases):
            flags = ["--no-fault"] if case.startswith("no layer") else []
            server = servers.Provium("cost", ["--image", image, *flags])
            try:
                arm(case, size)
                runs[case].append(nbd.fio(server, LOADS[case], seconds))
            finally:
                server.stop()
    os.unlink(image)
    table = []
    for case, own in runs.items():
        bare = runs["no layer, 512" if LOADS[case] is BETWEEN else "no layer"]
        table.append({"what": case, "iops": statistics.median(r[0] for r in own),
                      "iops_ratio": statistics.median(
                          a[0] / b[0] for a, b in zip(own, bare)),
                      "cpu_ratio": statistics.median(
                          a[1] / b[1] for a, b in zip(own, bare))})
    for row in table:
        print(f"{row['what']:<24} {row['iops']/1e3:>9.1f} kIOPS   against no layer: IOPS "
              f"{row['iops_ratio']:.3f}  CPU {row['cpu_ratio']:.3f}")
    return table


def journal(folder, seconds):
    """Every read fails: what the client saw, what the rule counted, what the journal has."""
    image = os.path.join(folder, "journal.img")
    nbd.make_image(image, 16 << 20)
    server = servers.Provium("journal", ["--image", image])
    try:
        call("pv-fault", "add", "error", "--disk", "journal", "--op", "read", "--id", "e")
        text = nbd.start_fio(server, [*LOAD, "--continue_on_error=all"], seconds).communicate()[0]
        job = json.loads(text[text.index(b"{"):])["jobs"][0]
        rule = call("pv-fault", "list", "--disk", "journal")["rule"]
        said = call("pv-fault", "journal", "--disk", "journal", "--since", str(rule["fired"] - 1))
        row = {"faults_per_s": rule["fired"] / (job["job_runtime"] / 1000),
               "client_errors": job["total_err"], "fired": rule["fired"],
               "journal_last": said["summary"]["last"], "dropped": said["summary"]["dropped"]}
    finally:
        server.stop()
    os.unlink(image)
    row["exact"] = row["client_errors"] == row["fired"] == row["journal_last"]
    print(f"journal: {row['faults_per_s']/1e3:.1f} k faults/s; client {row['client_errors']}, "
          f"rule {row['fired']}, journal {row['journal_last']} (oldest {row['dropped']} gone): "
          f"{'exact' if row['exact'] else 'DIFFERENT'}")
    return row


def read_fails(client):
    client.send(READ, 0, 512, 0)
    while True:
        for _, error, _ in client.answers(1):
            return error != 0


def changes(folder):
    """Rules come and go under full load; the request after each answer must obey."""
    image = os.path.join(folder, "changes.img")
    nbd.make_image(image, 256 << 20)
    server = servers.Provium("changes", ["--image", image])
    load = nbd.start_fio(server, [*LOAD, "--offset=1M"], 60)
    times, wrong = [], 0
    try:
        control, client = Control("changes"), Client(server.uri.split("socket=")[1])
        rule = {"id": "x", "match": {"op": ["read"], "ranges": [[0, 512]]},
                "do": {"kind": "error", "errno": "EIO"}}
        for number in range(CHANGES):
            request = ({"op": "fault.add", "rule": rule} if number % 2 == 0
                       else {"op": "fault.clear", "id": "x"})
            start = time.perf_counter()
            control.ask(**request)
            times.append((time.perf_counter() - start) * 1000)
            wrong += read_fails(client) != (number % 2 == 0)
    finally:
        load.terminate()
        load.communicate()
        server.stop()
    os.unlink(image)
    times.sort()
    row = {"changes": CHANGES, "p50_ms": times[CHANGES // 2], "p99_ms": times[CHANGES * 99 // 100],
           "max_ms": times[-1], "not_obeyed": wrong}
    print(f"rule changes under load: p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms, "
          f"max {row['max_ms']:.2f} ms, {wrong} of {CHANGES} not obeyed by the next request")
    return row


def delays(depth, seconds):
    """So many requests that wait at once, between 100 us and some seconds: how late each goes on,
    as the disk itself has measured it."""
    subprocess.run(["pv-disk", "serve", "delays", "--memory", "64M"], check=True,
                   capture_output=True)
    try:
        call("pv-fault", "add", "jitter", "--disk", "delays", "--set", "min_ms=0.1", "--set",
             f"max_ms={seconds * 1000}", "--seed", str(random.randrange(1 << 30)))
        path = call("pv-disk", "info", "delays")["disk"]["uri"].split("socket=")[1]
        client = Client(path)
        end, done = time.monotonic() + 2 * seconds, 0
        while time.monotonic() < end:
            while len(client.pending) < depth:
                client.send(READ, 0, 512, 0)
            done += sum(1 for _ in client.answers(0.2))
        said = call("pv-disk", "stats", "delays")["disk"]["stats"]["layers"]["fault_delays"]
    finally:
        subprocess.run(["pv-disk", "close", "delays", "--force"], check=False, capture_output=True)
    row = {"in_flight": depth, "delays": said["count"], "late_us_p50": said["late_us_p50"],
           "late_us_p99": said["late_us_p99"], "late_us_max": said["late_us_max"]}
    print(f"{depth} delays at once ({row['delays']} in all): late p50 {row['late_us_p50']:.0f} us, "
          f"p99 {row['late_us_p99']:.0f} us, max {row['late_us_max']:.0f} us")
    return row


def measure(folder, rounds, seconds):
    return {"cost": cost(folder, rounds, seconds), "journal": journal(folder, seconds),
            "changes": changes(folder), "delays": [delays(256, 2), delays(4096, 10)]}

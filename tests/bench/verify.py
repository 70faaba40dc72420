# SPDX-License-Identifier: MIT
"""pv-verify compare against qemu-img compare, whole commands in turn, in the page cache: two full
images, raw and qcow2, and two of 1 TiB that are nearly all hole; and what fill and check do."""
import json
import os
import statistics
import subprocess
import time

GIB = 1 << 30
MIB = 1 << 20


def timed(*argv, statuses=(0,)):
    start = time.monotonic()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    took = 1e3 * (time.monotonic() - start)
    if done.returncode not in statuses:
        raise RuntimeError(f"{' '.join(argv)}: status {done.returncode}: {done.stderr}")
    return took, done.stdout


def write(path, size, pieces):
    """Random bytes at the given places of a file of this size."""
    with open(path, "wb") as image:
        image.truncate(size)
        for offset, length in pieces:
            image.seek(offset)
            for at in range(0, length, MIB):
                image.write(os.urandom(min(MIB, length - at)))


def copy(source, target):
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


def pair(folder, name, size, pieces):
    a, b = (os.path.join(folder, f"{name}-{side}.img") for side in "ab")
    write(a, size, pieces)
    copy(a, b)
    return a, b


def as_qcow2(path):
    target = path.replace(".img", ".qcow2")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, target], check=True)
    return target


def show(what, ours, theirs):
    row = {"ours_ms": statistics.median(ours), "qemu_ms": statistics.median(theirs)}
    row["ratio"] = row["qemu_ms"] / row["ours_ms"]
    print(f"{what:<30} ours {row['ours_ms']:8.1f} ms ({min(ours):.1f}-{max(ours):.1f})   "
          f"qemu-img {row['qemu_ms']:8.1f} ms ({min(theirs):.1f}-{max(theirs):.1f})   "
          f"{row['ratio']:.2f} times as fast", flush=True)
    return row


def against(what, a, b, form, rounds):
    ours, theirs = [], []
    for _ in range(rounds + 1):  # the first one fills the page cache
        took, text = timed("pv-verify", "compare", a, b)
        if not json.loads(text.splitlines()[-1])["summary"]["equal"]:
            raise RuntimeError(f"{a} and {b} are not equal")
        ours.append(took)
        theirs.append(timed("qemu-img", "compare", "-f", form, "-F", form, a, b)[0])
    return show(what, ours[1:], theirs[1:])


def fill_and_check(path, rounds):
    fills, checks = [], []
    for generation in range(1, rounds + 1):
        fills.append(timed("pv-verify", "fill", path, "--generation", str(generation))[0])
        checks.append(timed("pv-verify", "check", path, "--generation", str(generation))[0])
    row = {"fill_mib_s": 1024e3 / statistics.median(fills),
           "check_mib_s": 1024e3 / statistics.median(checks)}
    print(f"{'1 GiB raw':<30} fill {row['fill_mib_s']:.0f} MiB/s, check "
          f"{row['check_mib_s']:.0f} MiB/s", flush=True)
    return row


def measure(folder, rounds):
    raw = pair(folder, "full", GIB, [(0, GIB)])
    rows = {"raw": against("two full raw images of 1 GiB", *raw, "raw", rounds)}
    qcow2 = [as_qcow2(path) for path in raw]
    rows["qcow2"] = against("two full qcow2 images of 1 GiB", *qcow2, "qcow2", rounds)
    for path in (*qcow2, raw[1]):
        os.unlink(path)
    rows["fill"] = fill_and_check(raw[0], rounds)
    os.unlink(raw[0])
    sparse = pair(folder, "sparse", 1024 * GIB, [(i * 64 * GIB, 64 * MIB) for i in range(16)])
    rows["sparse"] = against("1 TiB with 1 GiB of data", *sparse, "raw", rounds)
    for path in sparse:
        os.unlink(path)
    return rows

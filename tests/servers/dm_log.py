#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Logs of dm-log-writes, version 1, read and written by the layout that the kernel documents, with
nothing of ours in it.

Usage: dm_log.py list LOG            each entry as a JSON line
       dm_log.py replay LOG IMAGE N  the first N entries onto an image
       dm_log.py write LOG           from such JSON lines on stdin, "fill" instead of data
"""
import json
import struct
import sys

MAGIC, VERSION = 0x6a736677736872, 1
FLUSH, FUA, DISCARD, MARK, METADATA = 1, 2, 4, 8, 16


def entries(log):
    magic, version, count, sector = struct.unpack("<QQQI", log.read(28))
    assert magic == MAGIC, f"magic {magic:x}"
    assert version == VERSION, f"version {version}"
    assert sector >= 512 and sector & (sector - 1) == 0, f"sectors of {sector}"
    at = sector
    for number in range(count):
        log.seek(at)
        block = log.read(sector)
        assert len(block) == sector, f"entry {number} is cut"
        first, length, flags, text = struct.unpack("<QQQQ", block[:32])
        assert flags or length, f"entry {number} is empty"
        assert flags == MARK or block[32] == 0, f"entry {number} has text"
        at += sector
        data = b""
        if length and not flags & DISCARD:
            data = log.read(length * sector)
            assert len(data) == length * sector, f"entry {number}: its data is cut"
            at += len(data)
        mark = block[32:32 + text].decode() if flags & MARK else None
        yield {"n": number, "offset": first * sector, "length": length * sector, "flags": flags,
               "mark": mark}, data


def show(log):
    for entry, _ in entries(log):
        print(json.dumps(entry))


def replay(log, image, count):
    for entry, data in entries(log):
        if entry["n"] == count:
            break
        image.seek(entry["offset"])
        image.write(bytes(entry["length"]) if entry["flags"] & DISCARD else data)


def write(log, lines, sector=512):
    count, at = 0, sector
    for line in lines:
        entry = json.loads(line)
        flags, length = entry.get("flags", 0), entry.get("length", 0)
        mark = entry.get("mark", "").encode()
        log.seek(at)
        log.write((struct.pack("<QQQQ", entry.get("offset", 0) // sector, length // sector, flags,
                               len(mark)) + mark).ljust(sector, b"\0"))
        at += sector
        if not flags & DISCARD:
            log.write(entry.get("fill", "\0").encode() * length)
            at += length
        count += 1
    log.truncate(at)
    log.seek(0)
    log.write(struct.pack("<QQQI", MAGIC, VERSION, count, sector).ljust(sector, b"\0"))


def main(verb, name, *rest):
    if verb == "write":
        with open(name, "wb") as log:
            return write(log, sys.stdin)
    with open(name, "rb") as log:
        if verb == "list":
            return show(log)
        with open(rest[0], "r+b") as image:
            return replay(log, image, int(rest[1]))


main(*sys.argv[1:])

# SPDX-License-Identifier: MIT
"""Writes that are remembered: per sector every version that may be there after a crash."""
import random
import struct

import nbd_client
from nbd_client import FLUSH, FUA, TRIM, WRITE, ZEROES

SECTOR = 512
ZERO = bytes(SECTOR)
DEPTH = 16


def content(sector, version):
    return struct.pack("<QQ", sector + 1, version) * (SECTOR // 16)


class Model:
    """`versions[s]`: {version: bytes} from the last one that is known to be safe on."""

    def __init__(self, image):
        self.versions = [{0: image[at:at + SECTOR]} for at in range(0, len(image), SECTOR)]
        self.completed = [0] * len(self.versions)
        self.busy = set()

    def safe(self, sector, version):
        known = self.versions[sector]
        if version in known:
            self.versions[sector] = {v: b for v, b in known.items() if v >= version}

    def check(self, image):
        """What is wrong with an image after a crash; what it holds is the truth from then on."""
        wrong = []
        for sector, known in enumerate(self.versions):
            got = image[sector * SECTOR:(sector + 1) * SECTOR]
            if got not in known.values():
                wrong.append(f"sector {sector}: {got[:16].hex()} is none of versions "
                             f"{sorted(known)}")
        return wrong


class Load:
    """Runs until the server is gone; `counts` says how much was asked and answered."""

    def __init__(self, client, model, seed):
        self.client, self.model, self.rng = client, model, random.Random(seed)
        self.version = 1 + max(max(v) for v in model.versions)
        self.flushes = self.rng.choice((0.003, 0.02, 0.1))
        self.counts = {"changes": 0, "answered": 0, "flushes": 0, "errors": 0}

    def run(self):
        try:
            while True:
                while len(self.client.pending) < DEPTH:
                    self.one()
                for answer in self.client.answers(5):
                    self.answered(*answer)
        except nbd_client.Gone:
            pass
        return self.counts

    def one(self):
        rng, model = self.rng, self.model
        if rng.random() < self.flushes:
            return self.client.send(FLUSH, 0, 0, ("flush", list(model.completed)))
        count = rng.choice((1, 1, 2, 7, 8, 8, 8, 16, 33, 64, 128))
        first = rng.randrange(len(model.versions) - count)
        if rng.random() < 0.6:
            first &= ~7
        touched = range(first, first + count)
        if not model.busy.isdisjoint(touched):
            return None
        command = rng.choices((WRITE, ZEROES, TRIM), (8, 1, 1))[0]
        version, flags = self.version, FUA if rng.random() < self.flushes else 0
        self.version += 1
        pieces = [content(s, version) if command == WRITE else ZERO for s in touched]
        for sector, piece in zip(touched, pieces):
            model.versions[sector][version] = piece
        model.busy.update(touched)
        self.counts["changes"] += 1
        self.client.send(command, first * SECTOR, count * SECTOR,
                         ("change", touched, version, flags),
                         b"".join(pieces) if command == WRITE else b"", flags)
        return None

    def answered(self, tag, error, _):
        model = self.model
        self.counts["answered"] += 1
        self.counts["errors"] += error != 0
        if tag[0] == "flush":
            self.counts["flushes"] += 1
            for sector, version in enumerate(tag[1] if error == 0 else []):
                model.safe(sector, version)
            return
        _, touched, version, flags = tag
        for sector in touched:
            model.busy.discard(sector)
            model.completed[sector] = version
            if flags & FUA and error == 0:
                model.safe(sector, version)

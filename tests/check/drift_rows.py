# SPDX-License-Identifier: MIT
"""tests/rows.tsv: every feature has a test that exists, or a command that does not."""
import re

from tap import ROOT

COUNTS = {"B": 46, "C": 29}


def test_names(path):
    text = path.read_text("utf-8")
    if path.suffix == ".bats":
        return set(re.findall(r'^@test "(.*)" \{$', text, re.MULTILINE))
    # Of Catch2: a name may be cut into several literals.
    cases = re.findall(r'^TEST_CASE\(((?:"(?:[^"\\]|\\.)*"\s*)+)', text, re.MULTILINE)
    return {"".join(re.findall(r'"((?:[^"\\]|\\.)*)"', case)) for case in cases}


def problems():
    seen = set()
    for line in (ROOT / "tests/rows.tsv").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        row, _, path, what = line.split("\t")
        if row in seen:
            yield f"{row} is there twice"
        seen.add(row)
        if path == "-":
            if (ROOT / what).exists():
                yield f"{row}: {what} exists now: name the test"
        elif not (ROOT / path).exists():
            yield f"{row}: there is no {path}"
        elif what not in test_names(ROOT / path):
            yield f"{row}: {path} has no test '{what}'"
    for kind, count in COUNTS.items():
        for number in range(1, count + 1):
            if f"{kind}{number}" not in seen:
                yield f"{kind}{number} is missing"


def check(tap):
    tap.check("every feature has its test", problems())

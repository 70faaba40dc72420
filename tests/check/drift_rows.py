# SPDX-License-Identifier: MIT
"""tests/rows.tsv: every feature of a VM has a test that exists, or a command that does not."""
import re

from tap import ROOT

LAST = 46


def test_names(path):
    return set(re.findall(r'^@test "(.*)" \{$', path.read_text("utf-8"), re.MULTILINE))


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
    for number in range(1, LAST + 1):
        if f"B{number}" not in seen:
            yield f"B{number} is missing"


def check(tap):
    tap.check("every feature of a VM has its test", problems())

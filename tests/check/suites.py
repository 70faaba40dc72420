# SPDX-License-Identifier: MIT
"""The suites, cut into units: what the pool runs as one process. Each unit knows the names of its
tests beforehand, so that one that is never reported is a failure."""
import json
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass, field

import soak
from results import CatchReader, PlainReader, TapReader
from tap import BIN, ROOT

UNIT_SHARDS = 16


@dataclass
class Unit:
    name: str                 # "disk_io.bats", "unit 3", "drift shells"
    suite: str                # what its tests are called by: "disk_io.bats", "unit", "drift"
    tests: list
    argv: list
    needs_guest: bool = False
    prepares: bool = False    # the others wait for it: it makes the guest
    seconds: float = 0.0      # expected
    reads: type = TapReader
    names: list = field(default_factory=list)  # for Catch2, which takes them from a file

    def reader(self):
        return self.reads(self.suite)

    @property
    def reads_xml(self):
        return self.reads is CatchReader

    def command(self, folder):
        """What to run, with its files in `folder`."""
        if not self.names:
            return self.argv
        listed = f"{folder}/names"
        with open(listed, "w", encoding="utf-8") as file:
            file.writelines(f'"{escaped(name)}"\n' for name in self.names)
        return [*self.argv, "--input-file", listed, "--out", self.report(folder)]

    def report(self, folder):
        """Where its results are to be read."""
        return f"{folder}/tests.xml" if self.reads_xml else f"{folder}/output"


def escaped(name):
    return re.sub(r'([\\",\[])', r"\\\1", name)


def matching(tests, pattern):
    """Of [(suite, name)] those that TESTS=PATTERN is about: the one that is called so in full, or
    all that have the words in "suite: name"; with "*" for anything."""
    pattern = pattern.strip().removeprefix("tests/pipe/")
    called = [(f"{suite}: {name}", (suite, name)) for suite, name in tests]
    found = [test for full, test in called if pattern in (full, test[1])]
    if found:
        return found
    regex = re.compile(".*".join(re.escape(part) for part in pattern.split("*")))
    return [test for full, test in called if pattern in full or regex.search(full)]


def catch_names():
    program = BIN / "pv-test"
    for flags in (["--list-test-names-only"], ["--list-tests", "--verbosity", "quiet"]):
        # Catch2 2 ends with the number of tests, and 3 does not know the first form.
        answer = subprocess.run([program, *flags], capture_output=True, text=True, check=False)
        if answer.stdout.strip():
            return [re.sub(r'^"(.*)"$', r"\1", line.strip())
                    for line in answer.stdout.splitlines() if line.strip()]
    sys.exit(f"{program} lists no tests: {answer.stderr.strip()}")


def unit_tests(seed):
    """The tests of pv-test, dealt out by the seed: the same seed gives the same processes."""
    names = sorted(catch_names())
    random.Random(seed).shuffle(names)
    argv = [str(BIN / "pv-test"), "--reporter", "xml", "--durations", "yes", "--order", "rand",
            "--rng-seed", str(seed)]
    return [Unit(f"unit {index + 1}", "unit", names[index::UNIT_SHARDS], argv, reads=CatchReader)
            for index in range(UNIT_SHARDS)]


def bats_files(_seed):
    for path in sorted((ROOT / "tests/pipe").glob("*.bats")):
        text = path.read_text("utf-8")
        names = re.findall(r'^@test "(.*)" \{', text, re.MULTILINE)
        yield Unit(path.name, path.name, names, ["bats", "--tap", "--timing", str(path)],
                   needs_guest=bool(re.search(r"pv-vm|guest|helper_s", text)),
                   seconds=len(text) / 500)


def listed(script):
    """Units of tidy or drift, which say themselves what parts and tests they have."""
    program = str(ROOT / "tests/check" / script)
    answer = subprocess.run([program, "--list"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        sys.exit(f"{script} --list: {answer.stderr.strip()}")
    parts = {}
    for line in answer.stdout.splitlines():
        part, name = line.split("\t", 1)
        parts.setdefault(part, []).append(name)
    return [Unit(f"{script} {part}", script, names, [program, part],
                 needs_guest=bool(re.match("examples|guest", part)), seconds=len(names))
            for part, names in parts.items()]


def soak_steps(_seed):
    return [Unit(f"soak {number}", "soak", [name], argv, reads=PlainReader)
            for number, (name, argv) in enumerate(soak.steps(), 1)]


SUITES = {"unit": unit_tests, "tidy": lambda _seed: listed("tidy"),
          "drift": lambda _seed: listed("drift"), "bats": bats_files, "soak": soak_steps}


def only(unit, wanted):
    """The unit with the wanted ones of its tests, or None."""
    tests = [name for name in unit.tests if (unit.suite, name) in wanted]
    if len(tests) < len(unit.tests):
        if unit.suite.endswith(".bats"):
            either = "|".join(re.sub(r"([][\\.{}()*+?^$|])", r"\\\1", name) for name in tests)
            unit.argv = [*unit.argv, "--filter", f"^({either})$"]
        elif unit.reads is TapReader:
            unit.argv = [*unit.argv, *(word for name in tests for word in ("--only", name))]
        unit.tests = tests
    if unit.reads_xml:
        unit.names = tests
    return unit if tests else None


def collect(suites, seed, pattern):
    units = [unit for suite in suites for unit in SUITES[suite](seed)]
    everything = [(unit.suite, name) for unit in units for name in unit.tests]
    wanted = set(matching(everything, pattern) if pattern else everything)
    if not wanted:
        sys.exit(f"TESTS='{pattern}': no test and no test file is called so")
    return [unit for unit in (only(unit, wanted) for unit in units) if unit]


class Times:
    """How long units and tests took the last time: the pool begins with the longest."""

    def __init__(self, path):
        self.path = path
        try:
            self.known = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def expect(self, unit):
        if unit.reads_xml:
            seconds = [self.known.get(f"{unit.suite}: {name}", 0.2) for name in unit.tests]
            unit.seconds = sum(seconds)
        elif unit.name in self.known:
            unit.seconds = self.known[unit.name]

    def note(self, name, seconds):
        self.known[name] = round(seconds, 3)

    def save(self):
        fresh = self.path.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(self.known, indent=0, sort_keys=True) + "\n", "utf-8")
        os.replace(fresh, self.path)

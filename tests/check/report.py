# SPDX-License-Identifier: MIT
"""What a person or a program sees of a run: lines as it goes, the failures again at its end, and
TAP and JUnit XML for REPORT=dir."""
import os
import re
import shlex
import shutil
import sys
import time
import xml.etree.ElementTree as xml

from results import FAILED, PASSED, SKIPPED

SHOWN = 60          # lines of one failure
SHOWN_AGAIN = 400   # lines of all failures at the end


def rerun(result, seed):
    """How one test is run alone. make takes "$" for a variable."""
    words = shlex.quote((result.part or result.id).replace("$", "$$"))
    return f"run it alone: make check SEED={seed} TESTS={words}"


class Watcher:
    """Shows a run as it goes: on a terminal one line that changes, elsewhere a line for each unit;
    failures and skips at once."""

    def __init__(self, units, seed):
        self.total = sum(len(unit.tests) for unit in units)
        self.units = len(units)
        self.seed = seed
        self.all = []
        self.finished = []   # (unit, its seconds)
        self.live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.drawn = 0.0

    def count(self, status):
        return sum(result.status == status for result in self.all)

    def say(self, *lines):
        clear = "\r\033[K" if self.live else ""
        print(clear + "\n".join(lines), flush=True)
        self.drawn = 0.0

    def told(self, result):
        yield f"FAILED {result.id}"
        if len(result.text) > SHOWN:
            yield f"    ({len(result.text) - SHOWN} lines before these)"
        yield from ("    " + line for line in result.text[-SHOWN:])
        if result.part != "all":
            yield "    " + rerun(result, self.seed)

    def results(self, fresh):
        for result in fresh:
            self.all.append(result)
            if result.status == FAILED:
                self.say(*self.told(result))
            elif result.status == SKIPPED:
                self.say(f"skipped {result.id}: {' '.join(result.text)}")
            elif result.suite == "soak":
                self.say(f"passed {result.id}, in {result.seconds:.0f} s: {' '.join(result.text)}")

    def ended(self, job):
        seconds = time.monotonic() - job.started
        self.finished.append((job.unit, seconds))
        if job.unit.prepares:
            self.say(*job.reader.before) if job.reader.before else None
        elif not self.live:
            bad = sum(result.status == FAILED for result in job.reader.results)
            tests = len(job.unit.tests)
            self.say(f"[{len(self.all)}/{self.total}] {job.unit.name}: {tests} "
                     f"test{'s' * (tests != 1)} in {seconds:.0f} s" + f", {bad} FAILED" * (bad > 0))

    def tick(self, pool):
        if not self.live or time.monotonic() - self.drawn < 0.2:
            return
        self.drawn = time.monotonic()
        line = f"[{len(self.all)}/{self.total}] "
        if self.count(FAILED):
            line += f"{self.count(FAILED)} failed, "
        line += f"{len(pool.waiting)} of {self.units} waiting; now " + ", ".join(
            job.unit.name.removesuffix(".bats") for job in pool.running)
        print("\r\033[K" + line[:shutil.get_terminal_size().columns - 1], end="", flush=True)

    def again(self):
        """The failures, where even a log that was cut off shows them."""
        failures = [result for result in self.all if result.status == FAILED]
        lines = [line for result in failures for line in self.told(result)]
        if lines:
            self.say("== failures", *lines[:SHOWN_AGAIN])
        if len(lines) > SHOWN_AGAIN:
            self.say("... and of these: " + ", ".join(result.id for result in failures))

    def summary(self):
        line = f"{self.count(PASSED)} passed, {self.count(FAILED)} failed"
        if self.count(SKIPPED):
            line += f", {self.count(SKIPPED)} skipped"
        return line


def plain(text):
    """What XML may hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def junit(results, seed):
    root = xml.Element("testsuites", name="check")
    suites = {}
    for result in results:
        suites.setdefault(result.suite, []).append(result)
    for name, members in suites.items():
        suite = xml.SubElement(root, "testsuite", name=plain(name), tests=str(len(members)),
                               failures=str(sum(r.status == FAILED for r in members)), errors="0",
                               skipped=str(sum(r.status == SKIPPED for r in members)),
                               time=f"{sum(r.seconds for r in members):.3f}")
        properties = xml.SubElement(suite, "properties")
        xml.SubElement(properties, "property", name="seed", value=str(seed))
        for result in members:
            case = xml.SubElement(suite, "testcase", classname=plain(name), name=plain(result.name),
                                  time=f"{result.seconds:.3f}")
            text = plain("\n".join(result.text))
            if result.status == FAILED:
                failure = xml.SubElement(case, "failure", message=text.split("\n", 1)[0])
                failure.text = text + "\n" + rerun(result, seed)
            elif result.status == SKIPPED:
                xml.SubElement(case, "skipped", message=text)
    return xml.ElementTree(root)


def tap(results, seed):
    yield f"1..{len(results)}"
    yield f"# seed {seed}"
    for number, result in enumerate(results, 1):
        name = result.id.replace("\\", "\\\\").replace("#", "\\#")
        line = f"{'not ok' if result.status == FAILED else 'ok'} {number} - {name}"
        if result.status == SKIPPED:
            line += " # SKIP " + " ".join(result.text)
        yield line
        if result.status == FAILED:
            yield from (f"# {text}" for text in [*result.text, rerun(result, seed)])


def write(folder, results, seed):
    os.makedirs(folder, exist_ok=True)
    junit(results, seed).write(f"{folder}/junit.xml", encoding="utf-8", xml_declaration=True)
    with open(f"{folder}/check.tap", "w", encoding="utf-8", errors="replace") as file:
        file.writelines(line + "\n" for line in tap(results, seed))

# SPDX-License-Identifier: MIT
"""Results of tests, and how they are read from what a test program prints: TAP (BATS, tidy, drift)
or the XML of Catch2 (its versions 2 and 3). A reader is fed as the program goes, so that a failure
is known at once."""
import re
import xml.etree.ElementTree as xml
from dataclasses import dataclass, field

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass
class Result:
    suite: str                # "disk_io.bats", "unit", "tidy", "drift"
    name: str
    status: str = PASSED
    seconds: float = 0.0
    text: list = field(default_factory=list)  # of a failure; the reason of a skip
    part: str = ""            # what to run where it is no test that can be named

    @property
    def id(self):
        return f"{self.suite}: {self.name}"


class TapReader:
    """Lines that do not begin a test belong to the one before them."""
    TEST = re.compile(r"(ok|not ok) \d+ (.*)")
    SKIP = re.compile(r"(.*?) # skip ?(.*)", re.IGNORECASE)
    TIME = re.compile(r"(.*?) (?:# )?in (\d+) ?ms$")

    def __init__(self, suite):
        self.suite = suite
        self.results = []
        self.rest = ""
        self.before = []     # what was printed before the first test
        self.running = None  # TAP does not say

    def feed(self, data):
        *lines, self.rest = (self.rest + data).split("\n")
        for line in lines:
            self.line(line)

    def line(self, line):
        found = self.TEST.match(line)
        if not found:
            if not re.match(r"1\.\.\d+$", line):
                kept = self.results[-1].text if self.results else self.before
                kept.append(re.sub(r"^# ?", "", line))
            return
        result = Result(self.suite, found[2])
        skipped = self.SKIP.match(result.name)
        if skipped:
            result.status, result.name = SKIPPED, skipped[1]
            result.text.append(skipped[2] or "no reason given")
        timed = self.TIME.match(result.name)
        if timed:
            result.name, result.seconds = timed[1], int(timed[2]) / 1000
        if found[1] == "not ok":
            result.status = FAILED
        self.results.append(result)

    def end(self):
        if self.rest:
            self.line(self.rest)
        self.rest = ""


class CatchReader:
    """The XML that Catch2 writes as it goes. It ends early when the program dies."""

    def __init__(self, suite):
        self.suite = suite
        self.results = []
        self.before = []
        self.running = None
        self.sections = []
        self.text = []
        self.parser = xml.XMLPullParser(("start", "end"))

    def feed(self, data):
        try:
            self.parser.feed(data)
            for event, element in self.parser.read_events():
                (self.start if event == "start" else self.finish)(element)
        except xml.ParseError as error:
            self.before.append(f"the report of the tests cannot be read: {error}")

    def start(self, element):
        if element.tag == "TestCase":
            self.running, self.sections, self.text = element.get("name").strip(), [], []
        elif element.tag == "Section":
            self.sections.append(element.get("name", "").strip())

    def finish(self, element):
        text = (element.text or "").strip()
        where = f"{element.get('filename')}:{element.get('line')}"
        if element.tag == "Section":
            self.sections.pop()
        elif element.tag == "Expression" and element.get("success") == "false":
            original = (element.findtext("Original") or "").strip()
            self.text += [f"{where}: {' / '.join(self.sections)}".rstrip(": "),
                          f"  {element.get('type')}( {original} )",
                          "  with: " + (element.findtext("Expanded") or "").strip()]
        elif element.tag in ("Failure", "FatalErrorCondition", "Exception"):
            self.text += [f"{where}: {element.tag}: {text}"]
        elif element.tag in ("Info", "Warning"):
            self.text += ["  " + line for line in text.splitlines()]
        elif element.tag == "Skip":
            self.text += [text or "no reason given"]
        elif element.tag == "OverallResult":
            self.overall(element)
        elif element.tag == "TestCase":
            self.running = None
            element.clear()

    def overall(self, element):
        result = Result(self.suite, self.running, text=self.text,
                        seconds=float(element.get("durationInSeconds", 0)))
        if element.get("success") != "true":
            result.status = FAILED
        else:
            # Catch2 2 has no skip: the tests warn "skipped: REASON".
            result.text = [line.strip().removeprefix("skipped: ") for line in self.text
                           if element.get("skips", "0") != "0" or "skipped: " in line]
            result.status = SKIPPED if result.text else PASSED
        self.results.append(result)

    def end(self):
        pass


class PlainReader:
    """For a program that is one test, which its exit status tells; 77 is a skip."""
    KEPT = 40

    def __init__(self, suite):
        self.suite = suite
        self.results = []
        self.before = []     # its last lines
        self.running = None
        self.rest = ""

    def feed(self, data):
        *lines, self.rest = (self.rest + data).split("\n")
        self.before = (self.before + lines)[-self.KEPT:]

    def end(self):
        self.before += [self.rest] * bool(self.rest)

    def judge(self, name, status, seconds):
        text = self.before[-1:] if status in (0, 77) else self.before
        outcome = {0: PASSED, 77: SKIPPED}.get(status, FAILED)
        self.results.append(Result(self.suite, name, outcome, seconds, text))

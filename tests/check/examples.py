# SPDX-License-Identifier: MIT
"""Runs the examples of the manuals and of README.md, each with bash -e -o pipefail in a folder and
a run directory of its own. How an example is marked, on the line before it:

    mdoc        .\\" run            .\\" run vm            .\\" not run: REASON
    markdown    <!-- run -->       <!-- run vm -->       <!-- not run: REASON -->

`vm`: it boots a guest, so it is skipped where there is no guest image. In markdown the blocks are
```sh and ```console; in the latter the lines after "$ " are run and the others are what they print,
where "..." stands for anything. What an example leaves running is closed after it.
"""
import pathlib
import re

from drift_faults import has_guest
from manual import Page
from tap import BIN, ROOT, Scratch

TIME_LIMIT = 600


def markdown_examples(path):
    """(line number, mark, text, language) of each fenced sh or console block."""
    lines = path.read_text().splitlines()
    start = None
    for number, line in enumerate(lines, 1):
        if start is None:
            fence = re.match(r"```(\w*)$", line)
            if fence:
                start, language = number, fence[1]
        elif line == "```":
            mark = re.match(r"<!-- (.*) -->$", lines[start - 2] if start > 1 else "")
            if language in ("sh", "console"):
                yield start, mark[1] if mark else "", "\n".join(lines[start:number - 1]), language
            start = None


def session(text):
    """A console block as [(command, expected output)]."""
    steps = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append([line[2:], ""])
        elif steps and steps[-1][0].endswith("\\"):
            steps[-1][0] += "\n" + line.removeprefix("> ")
        elif steps:
            steps[-1][1] += line + "\n"
    return steps


def matches(expected, output):
    pattern = re.escape(expected.strip()).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, output.strip(), re.DOTALL)


def run_script(scratch, text):
    answer = scratch.run("bash", "-e", "-o", "pipefail", "-c", text, timeout=TIME_LIMIT)
    if answer.returncode != 0:
        yield f"status {answer.returncode}"
        yield from (answer.stderr or answer.stdout).splitlines()[-20:]


def run_session(scratch, text):
    mark = "=end of step="
    steps = session(text)
    script = "exec 2>&1\n" + "".join(f"{command}\necho '{mark}'\n" for command, _ in steps)
    answer = scratch.run("bash", "-o", "pipefail", "-c", script, timeout=TIME_LIMIT)
    outputs = answer.stdout.split(mark + "\n")
    for (command, expected), output in zip(steps, outputs):
        if not matches(expected, output):
            yield f"$ {command}"
            yield "expected: " + expected.strip()
            yield "printed:  " + output.strip()


def run_example(text, language):
    with Scratch() as scratch:
        if "tests/" in text:  # the reader is in the source folder
            (pathlib.Path(scratch.work) / "tests").symlink_to(ROOT / "tests")
        problems = list((run_session if language == "console" else run_script)(scratch, text))
    return problems + scratch.left


def example_problems(text, language):
    yield from run_example(text, language)


def of_page(path):
    for number, mark, text in Page(path).examples():
        yield f"man/{path.name}:{number}", mark, text, "sh"


def of_readme(path):
    for number, mark, text, language in markdown_examples(path):
        yield f"README.md:{number}", mark, text, language


def check(tap, found):
    guest = tap.listing or has_guest()
    for name, mark, text, language in found:
        name = f"example {name}"
        mark = mark.replace("run: vm", "run vm")
        missing = re.search(r"\bpv-vm\b", text) and not (BIN / "pv-vm").exists()
        if mark == "run" or (mark == "run vm" and guest and not missing):
            tap.check(name, example_problems(text, language))
        elif mark == "run vm":
            tap.skip(name, "no guest image")
        elif not mark.startswith("not run: "):
            tap.check(name, ["say whether it is run: put 'run', 'run vm' or 'not run: REASON' "
                             "in a comment on the line before it"])


def parts():
    """A part for each page with examples, and for README.md; and one for each example that boots a
    guest, which takes long."""
    pages = [(path, list(of_page(path))) for path in sorted((ROOT / "man").glob("*.[1-9]"))]
    if (ROOT / "README.md").exists():
        pages.append((ROOT / "README.md", list(of_readme(ROOT / "README.md"))))
    found = {}
    for path, examples in pages:
        for example in examples:
            line = example[0].split(":")[1]
            part = f"examples:{path.name}" + f":{line}" * ("vm" in example[1].split())
            found.setdefault(part, []).append(example)
    return {part: lambda tap, some=some: check(tap, some) for part, some in found.items()}

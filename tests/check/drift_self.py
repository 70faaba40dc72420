# SPDX-License-Identifier: MIT
"""The checks find what they are for: each gets something with a planted mistake."""
import pathlib
import tempfile

from drift_manual import manual_problems
from examples import run_example
from manual import Page

MANUAL = """.Sh DESCRIPTION
.Fl -gone
.Ss Examples
.\\" run
.Bd -literal
echo \\e
.Ed
.Sh COMMON OPTIONS
.Bl -tag
.It Fl h , Fl -help
.El
.Sh VERBS
.Ss good
.Bl -tag
.It Fl -size Ar SIZE
.It Fl -extra
.El
"""


def option(*names):
    return {"names": list(names)}


TREE = {"options": [option("-h", "--help")],
        "verbs": [{"name": "good", "options": [option("-h", "--help"), option("--size"),
                                               option("--new")]},
                  {"name": "fresh", "options": []}]}
EXPECTED = ["fresh: in --dump-cli, not in the VERBS", "good --new: not in the manual",
            "good --extra: in the manual, but", "--gone: mentioned in the manual"]


def manual_finds():
    with tempfile.TemporaryDirectory(prefix="pv-drift.") as folder:
        path = pathlib.Path(folder, "x.1")
        path.write_text(MANUAL, encoding="utf-8")
        page = Page(path)
    found = list(manual_problems(TREE, page))
    for start in EXPECTED:
        if not any(line.startswith(start) for line in found):
            yield f"not found in a manual: {start}"
    if any("--size" in line or "--help" in line for line in found):
        yield f"found in a manual, but right: {found}"
    if list(page.examples()) != [(5, "run", "echo \\\n")]:
        yield f"examples of a manual: {list(page.examples())}"


def examples_find():
    if not run_example("false | true\n", "sh"):
        yield "an example that fails in a pipe passes"
    if run_example("true\npv-disk serve d --memory 1M\n", "sh"):
        yield "an example whose disk is closed afterwards fails"
    if not any("left running" in line for line in run_example("sleep 600 &\n", "sh")):
        yield "an example that leaves a process behind passes"
    if run_example("$ echo a b c\na ... c\n", "console"):
        yield "a session that prints what it says fails"
    if not run_example("$ echo a\nb\n", "console"):
        yield "a session that prints something else passes"


def check(tap):
    tap.check("the manual check finds planted mistakes", manual_finds())
    tap.check("the example runner finds planted mistakes", examples_find())

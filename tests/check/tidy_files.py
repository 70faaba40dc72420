# SPDX-License-Identifier: MIT
"""Rules about files of any kind: licence, size, wording, modes, shell scripts."""
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import Callable

MAX_LINES = 400
MAX_COLUMNS = 100
MAX_BATS_COLUMNS = 140  # a pipeline under test reads best on one line
CODE = (".cpp", ".hpp", ".py", ".bash", ".bats", ".fish")


@dataclass
class Rule:
    name: str
    problems: Callable       # Tree -> messages
    planted: dict = field(default_factory=dict)  # file name -> text with a mistake
    tool: str = ""           # a program that it needs
    version: str = ""        # of which it says this: another one judges differently

    def missing_tool(self):
        """Why it cannot be looked at here, or an empty text."""
        if not self.tool:
            return ""
        if not shutil.which(self.tool):
            return f"{self.tool} is not installed"
        said = subprocess.run([self.tool, "--version"], capture_output=True, text=True, check=False)
        if self.version in said.stdout:
            return ""
        return f"{self.tool} is not {self.version}, and formats differently"


def is_script(text):
    return text.startswith("#!")


def is_code(name, text):
    return name.endswith(CODE) or is_script(text) or name.startswith("completions/")


def lines_matching(tree, pattern, message, skip=()):
    """A message for each line that a pattern is found in."""
    regex = re.compile(pattern)
    for name, text in tree.files():
        if name.endswith(skip) or not regex.search(text):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found = regex.search(line)
            if found:
                yield f"{name}:{number}: '{found[0].strip()}': {message}"


def licence(tree):
    for name, text in tree.files():
        typed = name.endswith((".cpp", ".hpp", ".py")) or name.startswith(("man/", "completions/"))
        if typed and "SPDX-License-Identifier: MIT" not in "\n".join(text.splitlines()[:3]):
            yield f"{name}: begin with a comment 'SPDX-License-Identifier: MIT'"


def file_size(tree):
    for name, text in tree.files():
        lines = text.count("\n")
        if is_code(name, text) and lines > MAX_LINES:
            yield f"{name}: {lines} lines; move a part to a file of its own (at most {MAX_LINES})"


def columns(tree):
    for name, text in tree.files():
        if not is_code(name, text) and name != "Makefile":
            continue
        for number, line in enumerate(text.splitlines(), 1):
            limit = MAX_BATS_COLUMNS if name.endswith(".bats") else MAX_COLUMNS
            if len(line) > limit:
                yield f"{name}:{number}: {len(line)} columns; break the line at {limit}"


def whitespace(tree):
    for name, text in tree.files():
        for number, line in enumerate(text.splitlines(), 1):
            if line != line.rstrip():
                yield f"{name}:{number}: remove the spaces at the end of the line"
        if text and not text.endswith("\n"):
            yield f"{name}: end the last line with a newline"


def modes(tree):
    for name, text in tree.files():
        executable = os.access(tree.root / name, os.X_OK)
        if is_script(text) and not executable and not name.endswith(".bats"):
            yield f"{name}: chmod 755 (it has a #! line)"
        if executable and not is_script(text):
            yield f"{name}: chmod 644 (it has no #! line)"


def promises(tree):
    yield from lines_matching(tree, r"\b(FIX" r"ME|TO" r"DO|X" r"XX)\b",
                              "do it, or say in a sentence what is missing and why")


def machine_paths(tree):
    yield from lines_matching(tree, r"(?<![\w.$}/*-])/(wo" r"rk|ho" r"me|ro" r"ot)/[\w.]+",
                              "the path of one machine; use a relative path or a variable")


def wording(tree):
    """The sources speak of what the program does and rest on nothing outside the repository."""
    outside = (r"\b(des" r"ign|sty" r"le)\.md\b|\bse" r"ed-(features|000)\b|/sha" r"red/"
               r"|\b[Ii]ss" r"ues? (#|no\. ?)?\d")
    process = (r"\bL" r"LMs?\b|\bA" r"I\b|\bG" r"PT\b|\blanguage mo" r"dels?\b|\bsub-?age" r"nts?\b"
               r"|\bco-?author" r"ed\b|\bcode ass" r"istant\b")
    yield from lines_matching(tree, outside, "say it here; the repository stands on its own")
    yield from lines_matching(tree, process, "say what the program does, not how it came about")


def control_lines(tree):
    """roff takes a line that begins with ' for a request, and drops it without a word."""
    for name, text in tree.files():
        if not re.search(r"\.[1-9]$", name):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("'"):
                yield f"{name}:{number}: would not be shown; no line of a manual begins with '"


def shell_files(tree):
    for name, text in tree.files():
        first = text.split("\n", 1)[0]
        if name.endswith(".bats") or name.startswith("tests/pipe/"):
            yield name, "bats"
        elif name.endswith((".bash", ".sh")) or re.match(r"#!.*\b(ba)?sh\b", first):
            yield name, "bash"


def shellcheck(tree):
    # bats sets variables that shellcheck 0.9 does not know, and runs each test in a subshell.
    exclude = {"bash": [], "bats": ["-e", "SC2154,SC2030,SC2031"]}
    for dialect, flags in exclude.items():
        names = [name for name, kind in shell_files(tree) if kind == dialect]
        if names:
            answer = subprocess.run(
                ["shellcheck", "-f", "gcc", "-S", "warning", "-s", dialect, *flags, *names],
                cwd=tree.root, capture_output=True, text=True, check=False)
            yield from answer.stdout.splitlines()


def python(tree):
    for name, text in tree.files():
        if not name.endswith(".py") and not re.match(r"#!.*\bpython3", text):
            continue
        try:
            compile(text, name, "exec")
        except SyntaxError as error:
            yield f"{name}:{error.lineno}: {error.msg}"


RULES = [
    Rule("licence line", licence, {"a.cpp": "int a;\n"}),
    Rule(f"files have at most {MAX_LINES} lines", file_size, {"a.cpp": "int a;\n" * 401}),
    Rule(f"lines have at most {MAX_COLUMNS} columns", columns, {"a.cpp": "//" + "-" * 99 + "\n"}),
    Rule("whitespace", whitespace, {"a.cpp": "int a; \n"}),
    Rule("file modes", modes, {"a.sh": "#!/bin/sh\n"}),
    Rule("nothing is left for later", promises, {"a.cpp": "// TO" + "DO: all\n"}),
    Rule("no path of one machine", machine_paths, {"a.cpp": '"/ho' + 'me/me/x"\n'}),
    Rule("the wording stands on its own", wording, {"a.md": "See des" + "ign.md.\n"}),
    Rule("manuals show all their lines", control_lines, {"a.1": "text\n'\n"}),
    Rule("shellcheck", shellcheck, {"a.bash": "#!/bin/bash\nx=1\n"}, "shellcheck"),
    Rule("python compiles", python, {"a.py": "def\n"}),
]

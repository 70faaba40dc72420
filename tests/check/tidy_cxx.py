# SPDX-License-Identifier: MIT
"""Rules about the C++ sources: headers, includes, functions, time and chance, registries."""
import re
import subprocess

from tap import ROOT
from tidy_files import Rule

CXX = (".cpp", ".hpp")
MAX_FUNCTION = 70

# What the files of a folder of lib/ may include, besides the system's headers.
MAY_INCLUDE = {
    "base": ["base/"],
    "cli": ["base/", "cli/"],
    "blk": ["base/", "blk/"],
    "front": ["base/", "blk/", "front/"],
    "guest": ["base/", "guest/"],
    "serve": ["base/", "blk/", "front/", "serve/"],
    "lan": ["base/", "lan/"],
    "vm": ["base/", "guest/", "lan/", "vm/", "serve/disk_object.hpp", "serve/server.hpp",
           "serve/spec.hpp"],
    "snap": ["base/", "vm/", "snap/", "serve/client.hpp", "serve/disk_object.hpp",
             "serve/snapshot.hpp"],
    "verify": ["base/", "blk/", "verify/"],
    "target": ["base/", "blk/", "cli/", "front/", "guest/", "serve/", "target/", "vm/"],
}


def without_comments(text):
    """The code without comments and string literals; line numbers stay."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"'
    return re.sub(pattern, lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)


def pragma_once(tree):
    for name, text in tree.files(".hpp"):
        if "\n#pragma once\n" not in text:
            yield f"{name}: add '#pragma once' below the first comment"


def function_lengths(text):
    """(line, length) of each block that follows a parameter list, at the top or in a class."""
    lines = text.splitlines()
    other = re.compile(r"\s*(namespace|class|struct|enum|union|//|#|\})")
    for end_of_head, line in enumerate(lines):
        if not line.endswith("{") or ")" not in line or other.match(line):
            continue
        start, balance = end_of_head, line.count("(") - line.count(")")
        while balance < 0 and start > 0:
            start -= 1
            balance += lines[start].count("(") - lines[start].count(")")
        indent = lines[start][:len(lines[start]) - len(lines[start].lstrip())]
        if len(indent) > 4:
            continue
        for end in range(end_of_head + 1, len(lines)):
            if lines[end].startswith(indent + "}"):
                yield start + 1, end - start + 1
                break


def functions(tree):
    for name, text in tree.files(*CXX):
        for number, length in function_lengths(text):
            if length > MAX_FUNCTION:
                yield (f"{name}:{number}: a function of {length} lines; split it "
                       f"(at most {MAX_FUNCTION})")


def time_and_chance(tree):
    pattern = re.compile(r"\bs?rand(om)?\s*\(|random_device|\bmt19937|(?<!\w)time\s*\(|"
                         r"\b(u|nano)?sleep(_for|_until)?\s*\(|steady_clock|system_clock::now|"
                         r"\b(clock_)?gettime(ofday)?\s*\(")
    for name, text in tree.files(*CXX):
        if not name.startswith(("lib/", "cmd/")) or name.startswith("lib/base/"):
            continue
        for number, line in enumerate(without_comments(text).splitlines(), 1):
            if pattern.search(line):
                yield f"{name}:{number}: take time and chance from Clock, Timers or Rng of lib/base"


def includes(tree):
    for name, text in tree.files(*CXX, under="lib/"):
        folder = name.split("/")[1]
        if folder not in MAY_INCLUDE:
            yield f"{name}: say in tests/check/tidy_cxx.py what lib/{folder} may include"
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found = re.match(r'#include "([^"]+)"', line)
            if found and not found[1].startswith(tuple(MAY_INCLUDE[folder])):
                yield (f"{name}:{number}: lib/{folder} may not include {found[1]}; move what is "
                       "shared down (see MAY_INCLUDE in tests/check/tidy_cxx.py)")


def compiled(tree):
    """What make compiles, from its own variables."""
    script = "print-sources:;@printf '%s\\n' $(foreach unit,$(UNITS),$(call sources,$(unit)))"
    answer = subprocess.run(["make", "-s", "BUILD=/nonexistent", "--eval", script, "print-sources"],
                            cwd=tree.root, capture_output=True, text=True, check=False)
    return set(answer.stdout.split())


def orphans(tree):
    sources = compiled(tree) if (tree.root / "Makefile").exists() else set()
    included = set()
    for _, text in tree.files(*CXX):
        included |= {path.split("/")[-1] for path in re.findall(r'#include "([^"]+)"', text)}
    makefile = tree.texts.get("Makefile", "")
    for name, _ in tree.files(*CXX):
        if name in makefile:
            continue
        if name.endswith(".cpp") and name not in sources and not name.startswith(
                ("tests/fuzz/", "tests/programs/")):
            yield f"{name}: is not compiled; move it to where the Makefile looks, or delete it"
        if name.endswith(".hpp") and name.split("/")[-1] not in included:
            yield f"{name}: nobody includes it; delete it"


# Tables whose rows need a test and a paragraph: file, name of the table, what a row is, what its
# paragraph starts with.
REGISTRIES = [
    ("lib/blk/registry.cpp", "k_layers", "layer", ".Ss"),
    ("lib/blk/fault/kinds.cpp", "k_kinds", "fault kind", ".It Cm"),
    ("lib/blk/fault/kinds.cpp", "k_shorthands", "shorthand", ".It Cm"),
]


def registries(tree):
    tests = "\n".join(text for name, text in tree.files(under="tests/")
                      if not name.startswith("tests/check/"))
    manuals = "\n".join(text for _, text in tree.files(under="man/"))
    for name, table, what, macro in REGISTRIES:
        body = re.search(table + r"\[\] = \{\n(.*?)\n\};", tree.texts.get(name, ""), re.DOTALL)
        rows = re.findall(r'^    \{"(\w+)"', body[1], re.MULTILINE) if body else []
        if not rows:
            yield f"{name}: no row of {table} found; write a row per line, or change tidy_cxx.py"
        for row in rows:
            if not re.search(rf"\b{row}\b", tests):
                yield f"{what} '{row}': write a test below tests/"
            if not re.search(rf"^{re.escape(macro)} {row}\b", manuals, re.MULTILINE):
                yield f"{what} '{row}': write a paragraph '{macro} {row}' in a manual"


def clang_format(tree):
    names = [name for name, _ in tree.files(*CXX)]
    command = ["clang-format", "--style=file:" + STYLE, "--dry-run", "-Werror", *names]
    answer = subprocess.run(command, cwd=tree.root, capture_output=True, text=True, check=False)
    for line in answer.stderr.splitlines():
        found = re.match(r"(\S+:\d+):\d+: error:", line)
        if found:
            yield f"{found[1]}: not formatted; run clang-format -i {found[1].split(':')[0]}"


STYLE = str(ROOT / ".clang-format")
LONG = "int f() {\n" + "  g();\n" * MAX_FUNCTION + "}\n"
RULES = [
    Rule("headers have #pragma once", pragma_once, {"a.hpp": "int a;\n"}),
    Rule(f"functions have at most {MAX_FUNCTION} lines", functions, {"a.cpp": LONG}),
    Rule("time and chance come from lib/base", time_and_chance,
         {"lib/blk/a.cpp": "int a = rand();\n"}),
    Rule("includes point one way", includes, {"lib/base/a.cpp": '#include "blk/disk.hpp"\n'}),
    Rule("no orphans", orphans, {"lib/a.hpp": "int a;\n"}),
    Rule("layers and fault kinds have a test and a paragraph", registries,
         {"lib/blk/registry.cpp": 'const LayerRow k_layers[] = {\n    {"x", "help"},\n};\n'}),
    Rule("clang-format", clang_format, {"a.cpp": "int  a ;\n"}, "clang-format",
         "version 14."),
]

# SPDX-License-Identifier: MIT
"""What the checks share: TAP output, running the commands, a scratch run directory of their own."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("BUILD", "build"))
BIN = (BIN if BIN.is_absolute() else ROOT / BIN) / "bin"
COMMANDS = sorted(path.name for path in ROOT.glob("cmd/pv-*") if path.is_dir())


class Tap:
    """Runs and reports tests, which are in named parts. Arguments: [--list] [PART] [--only TEST]…;
    with --list the tests of the parts are printed as PART<tab>TEST, and not run."""

    def __init__(self, parts, words):
        self.count = 0
        self.failed = 0
        self.part = ""
        self.parts = parts   # name -> function that makes the checks
        self.listing = "--list" in words
        self.only = [name for flag, name in zip(words, words[1:]) if flag == "--only"]
        named = [word for before, word in zip(["", *words], words)
                 if not word.startswith("--") and before != "--only"]
        for name in named:
            if name not in parts:
                sys.exit(f"unknown part '{name}' ({' '.join(parts)})")
        self.named = named or list(parts)

    def run(self):
        for self.part in self.named:
            self.parts[self.part](self)
        if self.listing:
            return 0
        print(f"1..{self.count}")
        return 1 if self.failed else 0

    def wanted(self, name):
        if self.listing:
            print(f"{self.part}\t{name}")
        return not self.listing and (not self.only or name in self.only)

    def check(self, name, problems):
        """One test: it passes when `problems`, a list of lines or a generator, is empty."""
        if not self.wanted(name):
            return
        self.count += 1
        began = time.monotonic()
        problems = list(problems)
        self.failed += bool(problems)
        print(f"{'not ok' if problems else 'ok'} {self.count} {name} "
              f"# in {(time.monotonic() - began) * 1000:.0f} ms", flush=True)
        for problem in problems:
            print("#   " + problem.rstrip().replace("\n", "\n#   "), flush=True)

    def skip(self, name, reason):
        if self.wanted(name):
            self.count += 1
            print(f"ok {self.count} {name} # skip {reason}", flush=True)


def differences(left_name, left, right_name, right):
    """Problems of two sets that should be equal."""
    for item in sorted(set(left) - set(right)):
        yield f"{item}: in {left_name}, not in {right_name}"
    for item in sorted(set(right) - set(left)):
        yield f"{item}: in {right_name}, not in {left_name}"


def run(argv, env=None, stdin="", timeout=300, cwd=None):
    """Runs a program with text in and out. What it prints goes to files, so that a process which it
    leaves behind keeps nobody waiting."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            done = subprocess.run([str(word) for word in argv], input=stdin, stdout=out, stderr=err,
                                  text=True, env=env, timeout=timeout, cwd=cwd, check=False)
            status, note = done.returncode, ""
        except subprocess.TimeoutExpired:
            status, note = 124, f"not done after {timeout} s"
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(argv, status, out.read(), err.read() + note)


def dump(command):
    return json.loads(run([BIN / command, "--dump-cli"]).stdout)


def flags_of(app):
    return {name for option in app["options"] for name in option.get("names", [])}


def source_files(*folders):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".cpp", ".hpp"):
                yield path


def found_in_sources(pattern, *folders):
    """All that `pattern`'s last group matches in the C++ sources below `folders`."""
    return {match[-1] if isinstance(match, tuple) else match
            for path in source_files(*folders) for match in re.findall(pattern, path.read_text())}


class Scratch:
    """A folder with a run directory of its own. Leaving it closes what was started in it; what is
    then still there is listed in `left`, and ended."""

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="pvx.", dir=os.environ.get("PV_TMP", "/tmp"))
        self.work = self.dir + "/work"
        os.mkdir(self.work)
        self.env = dict(os.environ, PV_RUN_DIR=self.dir + "/run",
                        PATH=f"{BIN}:{os.environ['PATH']}")
        self.env.pop("PV_SCOPE", None)
        self.left = []
        return self

    def run(self, *argv, **options):
        return run(argv, env=self.env, cwd=self.work, **options)

    def json(self, *argv, **options):
        """The documents that a command prints."""
        return [json.loads(line) for line in self.run(*argv, **options).stdout.splitlines()]

    def processes(self):
        mark = f"PV_RUN_DIR={self.dir}/run\0".encode()
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes() + b"\0":
                    yield int(entry.name), (entry / "comm").read_text().strip()
            except OSError:
                continue

    def __exit__(self, *_):
        for command, flags in (("pv-vm", ["--all"]), ("pv-disk", ["--all", "--force"])):
            if (BIN / command).exists():
                self.run(BIN / command, "close", *flags)
        objects = pathlib.Path(self.dir, "run/obj")
        self.left = [f"left behind: {path}" for path in objects.glob("*")]
        deadline = time.monotonic() + 30
        while (alive := list(self.processes())) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid, name in alive:
            self.left.append(f"left running: {name} ({pid})")
            os.kill(pid, 9)
        shutil.rmtree(self.dir, ignore_errors=True)

# SPDX-License-Identifier: MIT
"""Runs units side by side, the longest first. What a unit starts is a descendant of this process
until it is gone (orphans are adopted), so that nothing can be left unseen: neither after a unit,
nor when the run is interrupted."""
import codecs
import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import time

from results import FAILED, SKIPPED, CatchReader, PlainReader, Result

SETTLE = 15     # seconds that what a unit has told to end may take to be gone
TICK = 0.2
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HANDLED = (signal.SIGCHLD, *ENDING)
PR_SET_CHILD_SUBREAPER = 36


class Interrupted(Exception):
    pass


def processes():
    """{pid: parent} of all that are alive or not yet buried."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stat:
                    found[int(entry)] = int(stat.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
    return found


def descendants(root):
    parents = processes()
    found, fresh = set(), {root}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def read_bytes(path):
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:
        return b""


def remove(folder):
    """With what is mounted below it. Lines about what cannot be removed."""
    mounts = [line.split()[4] for line in read_bytes("/proc/self/mountinfo").decode().splitlines()]
    left = [mount for mount in mounts if mount.startswith(folder + "/")]
    for mount in reversed(left):
        subprocess.run(["umount", "--lazy", mount], check=False)
    shutil.rmtree(folder, ignore_errors=True)
    return [f"left mounted: {mount}" for mount in left] + [folder] * os.path.exists(folder)


class Running:
    """A unit with the process that runs it."""

    def __init__(self, unit, folder, env):
        self.unit = unit
        self.folder = folder                 # of the tests
        self.logs = folder + ".log"          # of ours
        for path in (self.folder, self.logs):
            os.mkdir(path)
            os.chmod(path, 0o755)  # tests that drop to another user must get in
        self.env = dict(env, PV_TMP=folder, TMPDIR=folder, PV_RUN_DIR=folder + "/run")
        self.started = time.monotonic()
        self.ended = None
        self.status = None
        self.reader = unit.reader()
        self.position = 0
        self.text = codecs.getincrementaldecoder("utf-8")("replace")
        self.told = 0
        argv = unit.command(self.logs)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        files = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                 (os.POSIX_SPAWN_OPEN, 1, self.logs + "/output", flags, 0o644),
                 (os.POSIX_SPAWN_DUP2, 1, 2)]
        self.pid = os.posix_spawnp(argv[0], argv, self.env, file_actions=files, setsid=True,
                                   setsigmask=(), setsigdef=(signal.SIGPIPE, *ENDING))

    def read(self):
        """What has been reported since the last time. A failure waits for its last line."""
        data = b""
        if os.path.exists(self.unit.report(self.logs)):
            with open(self.unit.report(self.logs), "rb") as report:
                report.seek(self.position)
                data = report.read()
        self.position += len(data)
        self.reader.feed(self.text.decode(data))
        complete = len(self.reader.results)
        if data and complete and self.reader.results[-1].status == FAILED:
            complete -= 1
        return self.tell(complete)

    def tell(self, complete):
        fresh, self.told = self.reader.results[self.told:complete], complete
        for result in fresh:
            if result.name not in self.unit.tests:  # such as "setup_file failed"
                result.part = self.unit.suite + ":"
        return fresh

    def mine(self, pid):
        """Whether a process is of this unit, or of a run inside it."""
        environ = b"\0" + read_bytes(f"/proc/{pid}/environ")
        return any(f"\0PV_TMP={self.folder}{end}".encode() in environ for end in "\0/")

    def finish(self, why):
        """Its last results: those of tests that it never reported are failures."""
        fresh = self.read()
        self.reader.end()
        results = self.reader.results
        if isinstance(self.reader, PlainReader) and not why:
            self.reader.judge(self.unit.tests[0], self.status, self.ended - self.started)
        missing = list(self.unit.tests)
        for result in results:
            if result.name in missing:
                missing.remove(result.name)
        begun = self.reader.running or not isinstance(self.reader, CatchReader)
        if self.reader.running in missing:
            missing.remove(self.reader.running)
            missing.insert(0, self.reader.running)
        tail = read_bytes(self.logs + "/output").decode("utf-8", "replace").splitlines()[-30:]
        if missing:
            others = [f"nor did {len(missing) - 1} more"] * (len(missing) > 1)
            results.append(Result(self.unit.suite, missing[0], FAILED, text=[
                f"did not {'end' if begun else 'run'}: {why or self.said()}", *others, *tail]))
        elif (why or self.status) and not self.explained():
            results.append(Result(self.unit.suite, f"{self.unit.name} ends well", FAILED, text=[
                why or self.said(), *self.reader.before[-30:], *tail]))
        return fresh + self.tell(len(results))

    def explained(self):
        """Whether its status is that of its results. Catch2 3 ends with 4 when all are skipped."""
        statuses = {result.status for result in self.reader.results}
        return FAILED in statuses or (statuses == {SKIPPED} and self.status == 4)

    def said(self):
        status = self.status
        return f"signal {-status}" if status < 0 else f"its process ended with status {status}"


class Pool:
    def __init__(self, units, options, watcher):
        """options: jobs, deadline, tmp, env. The watcher is told of results as they come."""
        self.waiting = sorted(units, key=lambda unit: -unit.seconds)
        self.options = options
        self.watcher = watcher
        self.running = []
        self.left = []       # what units left behind
        self.prepared = not any(unit.prepares for unit in units)
        self.count = 0

    def run(self):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            while self.waiting or self.running:
                self.start()
                self.watcher.tick(self)
                info = signal.sigtimedwait(HANDLED, TICK)
                if info and info.si_signo in ENDING:
                    raise Interrupted(signal.Signals(info.si_signo).name)
                self.bury()
                self.look()
        finally:
            self.left += self.end_all()

    def start(self):
        while len(self.running) < self.options.jobs:
            unit = next((unit for unit in self.waiting
                         if self.prepared or not unit.needs_guest), None)
            if not unit:
                return
            self.waiting.remove(unit)
            self.count += 1
            folder = f"{self.options.tmp}/{self.count}"
            env = dict(self.options.env)
            if os.path.isdir(self.options.snapshot):
                env["PV_GUEST_SNAP"] = self.options.snapshot
            self.running.append(Running(unit, folder, env))

    def bury(self):
        """All children that have ended: those of ours, and orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for job in self.running:
                if job.pid == pid:
                    job.status = os.waitstatus_to_exitcode(status)
                    job.ended = time.monotonic()

    def look(self):
        for job in list(self.running):
            self.watcher.results(job.read())
            late = time.monotonic() - job.started > self.options.deadline
            if job.ended:
                self.settle(job)
            elif late:
                self.kill(job)
                self.close(job, f"stopped after {self.options.deadline} s")

    def orphans(self, job):
        """What a unit that has ended left running."""
        others = {other.pid for other in self.running}
        return [pid for pid, parent in processes().items()
                if parent == os.getpid() and pid not in others and job.mine(pid)]

    def settle(self, job):
        alive = self.orphans(job)
        if alive and time.monotonic() - job.ended < SETTLE:
            return
        for pid in alive:
            words = read_bytes(f"/proc/{pid}/cmdline").decode("utf-8", "replace")
            self.left.append(f"{job.unit.name}: left running: {pid} {words.replace(chr(0), ' ')}")
        self.kill(job)
        self.close(job, "")

    def kill(self, job):
        """A unit with all that it started."""
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            own = set() if job.ended else descendants(job.pid) | {job.pid}
            own |= {pid for pid in descendants(os.getpid()) if job.mine(pid)}
            for pid in own:
                kill(pid)
            self.bury()
            if not own:
                return
            time.sleep(0.01)

    def close(self, job, why):
        if job.status is None:
            job.status = -signal.SIGKILL
        self.running.remove(job)
        if job.unit.prepares:
            self.prepared = True
        self.watcher.results(job.finish(why))
        self.watcher.ended(job)
        if not why:
            self.left += [f"{job.unit.name}: left behind: {path}" for path in files_left(job)]
        self.left += [f"{job.unit.name}: {line}" for line in remove(job.folder)]
        remove(job.logs)

    def end_all(self):
        """Nothing that was started is alive when this returns."""
        self.bury()
        alive = descendants(os.getpid())
        left = [] if self.running else [f"left running: {pid}" for pid in sorted(alive)]
        deadline = time.monotonic() + SETTLE
        while alive and time.monotonic() < deadline:
            for pid in alive:
                kill(pid)
            time.sleep(0.01)
            self.bury()
            alive = descendants(os.getpid())
        return left


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def files_left(job):
    """Whatever there is; of a run directory what speaks of something that runs."""
    folder = pathlib.Path(job.folder)
    yield from (str(path) for path in sorted(folder.iterdir()) if path.name != "run")
    for path in sorted(folder.glob("run/**/*")):
        if path.is_socket() or path.is_fifo() or path.parent.name == "obj":
            yield str(path)

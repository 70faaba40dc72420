#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs a command with something that a parent, a container or an administrator may have left it.

Usage: inherit.py STATE COMMAND…     STATE is one of those below"""
import os
import resource
import shutil
import signal
import sys
import tempfile

SIGNALS = set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}


def ignore_all():
    for number in SIGNALS - {signal.SIGINT, signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)


def leave_deleted_folder():
    folder = tempfile.mkdtemp(dir=".")
    os.chdir(folder)
    shutil.rmtree("../" + os.path.basename(folder))


def clear(*names):
    for name in names:
        os.environ.pop(name, None)


def empty_environment():
    keep = {name: os.environ[name] for name in ("PATH", "PV_RUN_DIR") if name in os.environ}
    os.environ.clear()
    os.environ.update(keep)


STATES = {
    "sigchld ignored": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    "sigpipe ignored": lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),
    "all signals ignored": ignore_all,
    "all signals blocked": lambda: signal.pthread_sigmask(signal.SIG_SETMASK, SIGNALS),
    "umask 0177": lambda: os.umask(0o177),
    "umask 0777": lambda: os.umask(0o777),
    "umask 0": lambda: os.umask(0),
    "stdin closed": lambda: os.close(0),
    "stderr closed": lambda: os.close(2),
    "stdin non-blocking": lambda: os.set_blocking(0, False),
    "stdout non-blocking": lambda: os.set_blocking(1, False),
    "folder deleted": leave_deleted_folder,
    "no home": lambda: clear("HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"),
    "empty environment": empty_environment,
    "64 descriptors": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    "no core, no locked memory": lambda: [resource.setrlimit(what, (0, 0)) for what in
                                          (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK)],
}

if len(sys.argv) == 1:
    print("\n".join(STATES))
    sys.exit()
STATES[sys.argv[1]]()
os.execvp(sys.argv[2], sys.argv[2:])

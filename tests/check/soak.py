# SPDX-License-Identifier: MIT
"""What `make soak` runs besides `make check`: what is long or random. Each line says what it proves
when it passes. How much of it there is can be said in the environment; make passes it on."""
import os


def amount(name, default):
    return os.environ.get(name) or str(default)


def steps():
    """[(what it proves, what to run below the source folder)]"""
    rounds, cuts = amount("ROUNDS", 200), amount("VM_CUTS", 100)
    restores, kills = amount("RESTORES", 1000), amount("KILLS", 1000)
    return [
        ("tests: all of unit and BATS hold with the counts that take long (PV_SOAK=1)",
         ["env", "PV_SOAK=1", "tests/check/run", "unit", "bats"]),
        (f"crash: of {rounds} disk servers killed under load none loses what was flushed",
         ["tests/crash/run", "--rounds", rounds]),
        (f"crash: {rounds} power cuts of three disks at once keep the order of flushes",
         ["tests/crash/chain", "--cuts", rounds]),
        (f"crash: {cuts} power cuts of VMs, and what fsync promised is there",
         ["tests/crash/fsync", "--cuts", cuts]),
        (f"crash: {restores} restores of one snapshot, the last as fast as the first",
         ["tests/crash/restores", "--count", restores]),
        ("crash: a guest that writes is restored and switched off; its disks are clean",
         ["tests/crash/load"]),
        (f"crash: {kills} kills of vhost-user servers, and the guest sees none of them",
         ["tests/crash/vhost_kill", "--count", kills]),
        ("sanitizers: no unit test touches memory that is not its own (ASan, UBSan)",
         ["make", "asan"]),
        ("sanitizers: no two threads of a unit test race (TSan)", ["make", "tsan"]),
        ("build: each source and each header compiles alone", ["make", "alone"]),
        ("build: clang++ builds all of it", ["make", "BUILD=build/clang", "CXX=clang++", "all",
                                             "build/clang/bin/pv-test"]),
        ("fuzz: no parser of foreign bytes crashes or hangs", ["make", "fuzz"]),
        *((f"check-on: all of `make check` passes on a fresh {suite}",
           ["make", "check-on", f"SUITE={suite}"]) for suite in ("bookworm", "trixie")),
    ]

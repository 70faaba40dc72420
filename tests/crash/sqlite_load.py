#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""SQLite on a disk that is one file: transactions, and what must be true of them afterwards.

  sqlite_load.py make FILE SIZE          an image whose disk is a database
  sqlite_load.py work FILE ACKNOWLEDGED  adds rows one by one, notes each that was committed
  sqlite_load.py look FILE ACKNOWLEDGED  fails when one of those is missing, or half of one is there
"""
import os
import sqlite3
import sys

ROWS = 5
BLOB = 6000  # more than a page: a row half written would be seen


def make(path, size):
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA page_size=4096")
        base.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, data BLOB)")
        base.execute("CREATE TABLE total (n INTEGER)")
        base.execute("INSERT INTO total VALUES (0)")
    base.close()
    # The database ends where its head says; what is behind it is room to grow.
    os.truncate(path, int(size))


def work(path, acknowledged):
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("PRAGMA synchronous=FULL")
    base.execute("PRAGMA cache_size=2")  # pages: reads come back, too
    with open(acknowledged, "w", encoding="ascii") as notes:
        for n in range(1, ROWS + 1):
            base.execute("BEGIN")
            base.execute("INSERT INTO t VALUES (?, ?)", (n, bytes([n]) * BLOB))
            base.execute("UPDATE total SET n = n + 1")
            base.execute("COMMIT")
            print(n, file=notes, flush=True)
    base.close()


def look(path, acknowledged):
    notes = []
    if os.path.exists(acknowledged):
        with open(acknowledged, encoding="ascii") as lines:
            notes = lines.read().split()
    base = sqlite3.connect(path)
    answer = base.execute("PRAGMA integrity_check").fetchall()
    rows = base.execute("SELECT n, data FROM t ORDER BY n").fetchall()
    total = base.execute("SELECT n FROM total").fetchone()[0]
    base.close()
    if answer != [("ok",)]:
        sys.exit(f"integrity_check: {answer}")
    if rows != [(n, bytes([n]) * BLOB) for n in range(1, total + 1)]:
        sys.exit(f"a transaction is there in part: {len(rows)} rows, total {total}")
    # One whose answer was an error may have been committed all the same.
    if not len(notes) <= total <= len(notes) + 1:
        sys.exit(f"{len(notes)} transactions were acknowledged, {total} are there")


try:
    {"make": make, "work": work, "look": look}[sys.argv[1]](*sys.argv[2:])
except sqlite3.Error as error:
    sys.exit(f"sqlite: {error}")

# SPDX-License-Identifier: MIT
"""Fault kinds, shorthands and the truth table of pv-faults(7) against running disks."""
import errno
import os
import re

from drift_manual import page, unknown_keys
from tap import Scratch, differences

# What an operation of a rule is called by qemu-io and pv-disk, each on the first sector.
QEMU_IO = {"read": "read 0 512", "write": "write 0 512", "zero": "write -z 0 512",
           "discard": "discard 0 512"}
HOST = {"read": ["read"], "write": ["write", "--from", "sector"], "zero": ["zero", "--count", "1"],
        "discard": ["discard", "--count", "1"]}
OPERATIONS = {"all": ["read", "write"], "write, zero": ["write", "zero"],
              "others": ["read", "discard"]}


def kind_problems():
    with Scratch() as scratch:
        rows = [document["kind"] for document in scratch.json("pv-fault", "kinds")]
        scratch.run("pv-disk", "serve", "d", "--memory", "1M")
        refused = scratch.json("pv-fault", "add", "error", "--disk", "d", "--errno", "ENONSENSE")
        for name in refused[-1]["error"].get("valid", ["none offered"]):
            answer = scratch.run("pv-fault", "add", "error", "--disk", "d", "--errno", name)
            if answer.returncode != 0:
                yield f"--errno {name} is offered but refused: {answer.stderr.strip()}"
    yield from scratch.left
    faults = page("pv-faults")
    kinds = {row["name"] for row in rows if "rule" not in row}
    yield from differences("pv-fault kinds", kinds, "KINDS of pv-faults(7)",
                           faults.entries("KINDS", "Cm"))
    table = {row[0]: row[1:] for row in faults.table("KINDS BY TRANSPORT")}
    for row in rows:
        if "rule" not in row and table.get(row["name"]) != [row["nbd"], row["guest"],
                                                                row["vhost_user"], row["host"]]:
            yield f"{row['name']}: another row in KINDS BY TRANSPORT than pv-fault kinds prints"
    shorthands = {row["name"] for row in rows if "rule" in row}
    yield from differences("pv-fault kinds", shorthands, "SHORTHANDS of pv-faults(7)",
                           faults.entries("SHORTHANDS", "Cm"))
    text = "\n".join(page("pv-fault").section("add"))
    for name in sorted(kinds | shorthands):
        if not re.search(rf"\b{name}\b", text):
            yield f"{name}: not in 'add' of pv-fault(1)"


def errno_by_text(text):
    for number, name in errno.errorcode.items():
        if os.strerror(number) == text:
            return "ENOTSUP" if name == "EOPNOTSUPP" else name
    return text


def nbd_error(scratch, uri, operation):
    """(what qemu-io was told, what the journal says was delivered) for one request."""
    answer = scratch.run("qemu-io", "-d", "unmap", "-f", "raw", "-c", QEMU_IO[operation], uri)
    failed = re.search(r"failed: (.*)", answer.stdout + answer.stderr)
    events = [document["event"] for document in scratch.json("pv-fault", "journal", "--disk", "d")
              if "event" in document]
    delivered = [event["delivered"] for event in events
                 if event["op"] == operation and event["front"] == "nbd"]
    return errno_by_text(failed[1]) if failed else "OK", delivered[-1] if delivered else "nothing"


def row_problems(scratch, uri, row):
    requested, operations, nbd, _, _, host = row
    added = scratch.run("pv-fault", "add", "error", "--disk", "d", "--op",
                        "read,write,zero,discard", "--errno", requested)
    if added.returncode != 0:
        yield f"{requested}: {added.stderr.strip()}"
        return
    for operation in OPERATIONS[operations]:
        told, delivered = nbd_error(scratch, uri, operation)
        if told != nbd or delivered != nbd:
            yield (f"{requested} for {operation}: the table says NBD {nbd}, qemu-io was told "
                   f"{told}, the journal says {delivered}")
        error = scratch.json("pv-disk", *HOST[operation][:1], "d", *HOST[operation][1:])[-1]
        seen = error.get("error", {}).get("errno", "OK")
        if seen != host:
            yield f"{requested} for {operation}: the table says host {host}, pv-disk got {seen}"
    scratch.run("pv-fault", "clear", "--disk", "d")


def table_problems():
    rows = page("pv-faults").table("TRUTH TABLE")
    if len(rows) < 10:
        yield f"only {len(rows)} rows found in TRUTH TABLE of pv-faults(7)"
    with Scratch() as scratch:
        with open(scratch.work + "/sector", "wb") as sector:
            sector.write(bytes(512))
        scratch.run("pv-disk", "serve", "d", "--memory", "1M")
        uri = scratch.run("pv-disk", "info", "d", "-o", "uri").stdout.strip()
        for row in rows:
            yield from row_problems(scratch, uri, row)
        # What the text below the table says of QEMU and ENOTSUP.
        scratch.run("pv-fault", "add", "error", "--disk", "d", "--op", "zero,discard", "--errno",
                    "ENOTSUP")
        for operation in ("zero", "discard"):
            told, delivered = nbd_error(scratch, uri, operation)
            if (told, delivered) != ("OK", "ENOTSUP"):
                yield f"ENOTSUP for {operation}: QEMU said {told}, the journal {delivered}"
    yield from scratch.left


def seen_in_guest(scratch, disk, requested, operation):
    """What dd in the guest says of a request that a rule fails; and all that it said."""
    target = f"if=/dev/{disk} of=/dev/null" if operation == "read" else \
        f"if=/dev/zero of=/dev/{disk} conv=fsync"
    scratch.run("pv-fault", "add", "error", "--disk", disk, "--op", operation, "--errno",
                requested)
    answer = scratch.run("pv-vm", "run", "v", "--raw", "--", "dd", *target.split(), "bs=4096",
                         "count=1")
    scratch.run("pv-fault", "clear", "--disk", disk)
    said = answer.stderr.strip()
    match = re.search(r": ([^:\n]*)$", said.splitlines()[0])
    text = (match[1] if match else "").replace("I/O error", "Input/output error")
    text = text.replace("Not supported", "Operation not supported")
    return errno_by_text(text) if answer.returncode else "OK", said


def guest_problems():
    """The columns `guest` and `vhost-user`: each errno once, inside a VM. And what the VM's
    documents say."""
    with Scratch() as scratch:
        scratch.run("pv-vm", "create", "v")
        scratch.run("pv-disk", "attach", "v", "--id", "vda", "--memory", "1M")
        scratch.run("pv-disk", "attach", "v", "--id", "vdb", "--memory", "1M", "--transport",
                    "vhost-user")
        booted = scratch.run("pv-vm", "boot", "v", timeout=180)
        if booted.returncode != 0:
            yield booted.stderr.strip()
            return
        for document in (scratch.json("pv-vm", "info", "v") +
                         scratch.json("pv-vm", "run", "v", "--", "true")):
            yield from unknown_keys("vm", document.get("vm", {}))
            yield from unknown_keys("run", document.get("run", {}))
        for requested, operations, _, guest, vhost, _ in page("pv-faults").table("TRUTH TABLE"):
            operation = OPERATIONS[operations][0]
            for disk, wanted in (("vda", guest), ("vdb", vhost)):
                seen, said = seen_in_guest(scratch, disk, requested, operation)
                if seen != wanted:
                    yield (f"{requested} for {operation}: the table says the guest sees {wanted} "
                           f"of {disk}, it saw {seen}: {said}")
    yield from scratch.left


def has_guest():
    with Scratch() as scratch:
        try:
            return scratch.run("pv-vm", "guest", "info").returncode == 0
        except FileNotFoundError:
            return False


def check(tap):
    tap.check("fault kinds and shorthands are those of the manuals", kind_problems())
    tap.check("the truth table of pv-faults(7) holds for host and NBD", table_problems())


def check_guest(tap):
    name = "the truth table of pv-faults(7) holds in a guest"
    if tap.listing or has_guest():
        tap.check(name, guest_problems())
    else:
        tap.skip(name, "no guest image")

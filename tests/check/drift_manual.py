# SPDX-License-Identifier: MIT
"""Commands against manuals: verbs, flags, help texts, error codes, environment, document keys."""
import pathlib
import re

from manual import Page
from tap import (BIN, COMMANDS, ROOT, Scratch, differences, dump, flags_of, found_in_sources, run)


def page(name):
    found = list((ROOT / "man").glob(name + ".[17]"))
    return Page(found[0]) if found else None


def manual_problems(tree, manual):
    verbs = {verb["name"]: flags_of(verb) for verb in tree["verbs"]}
    everything = flags_of(tree).union(*verbs.values())
    yield from differences("--dump-cli", verbs, "the VERBS of the manual", manual.verbs)
    for verb in sorted(set(verbs) & set(manual.verbs)):
        own, common = manual.flags_of(verb), manual.common()
        for flag in sorted(verbs[verb] - own - common):
            yield f"{verb} {flag}: not in the manual; add '.It Fl {flag[1:]}' below the verb"
        for flag in sorted(own - verbs[verb]):
            yield f"{verb} {flag}: in the manual, but the verb has no such flag"
    for verb in tree["verbs"]:
        taken = {flag.lstrip("-") for flag in flags_of(verb)}
        for option in verb["options"]:
            if option.get("positional") in taken:
                yield (f"{verb['name']} {option['positional']}: has the name of a flag, which "
                       "CLI11 2.4 refuses; name it otherwise")
    documented = set().union(*manual.verbs.values(), *manual.groups.values())
    for flag in sorted(flags_of(tree) - documented):
        yield f"{flag}: not in the manual"
    for flag in sorted(manual.mentions - everything):
        yield f"{flag}: mentioned in the manual, but no verb has it"


def help_problems(command):
    tree = dump(command)

    def ask(*words):
        return run([BIN / command, *words])

    def helps(words, expected):
        answer = ask(*words)
        if answer.returncode != 0 or answer.stderr or not answer.stdout:
            yield f"{' '.join(words)}: status {answer.returncode}, stderr '{answer.stderr.strip()}'"
        for item in expected:
            if not re.search(rf"(^|[\s,]){re.escape(item)}($|[\s,[])", answer.stdout, re.M):
                yield f"{' '.join(words)}: does not show {item}"

    yield from helps(["--help"], [verb["name"] for verb in tree["verbs"]])
    yield from helps(["--version"], [tree["version"]])
    for verb in tree["verbs"]:
        yield from helps([verb["name"], "--help"], sorted(flags_of(verb)))
    wrong = [["--no-such-flag"], ["no-such-verb"], []]
    for verb in tree["verbs"]:
        needed = ["build" for option in verb["options"] if option["required"]]
        wrong.append([verb["name"], *needed, "--no-such-flag"])
    for words in wrong:
        answer = ask(*words)
        # Like ssh(1), `run` keeps all but 255 for the guest's command.
        wanted = 255 if words[:1] == ["run"] else 2
        lines = answer.stderr.count("\n")
        if answer.returncode != wanted or lines != 1:
            yield (f"'{' '.join(words)}': status {answer.returncode} and {lines} lines on stderr, "
                   f"expected {wanted} and one line")
        if words and words[-1] not in answer.stderr:
            yield f"'{' '.join(words)}': the message does not name it: {answer.stderr.strip()}"


def code_problems():
    source = (ROOT / "lib/base/error.cpp").read_text()
    in_code = {f"{name} {status}"
               for name, status in re.findall(r'\{Code::\w+, "(\w+)", (\d+)\}', source)}
    json = page("pv-json")
    in_manual = {f"{row[0]} {row[1]}" for row in json.table("Codes")}
    yield from differences("lib/base/error.cpp", in_code, "pv-json(7)", in_manual)
    classes = {row.split()[1] for row in in_code} | {"0", "1"}
    stated = {line.split()[1] for line in json.section("EXIT STATUS") if line.startswith(".It ")}
    yield from differences("the codes", classes, "EXIT STATUS of pv-json(7)", stated)
    keys = found_in_sources(r'\.with\(\s*"(\w+)"', "lib", "cmd") | {"code", "message", "errno"}
    keys.discard("status")  # between supervisor and command only
    yield from differences("Error::with() in the code", keys, "ERROR DOCUMENTS of pv-json(7)",
                           set(json.entries("ERROR DOCUMENTS", "Li")))


def environment_problems():
    used = found_in_sources(r'\b(?:getenv|env)\("([A-Z_]+)"\)', "lib", "cmd")
    stated = set(page("provium").entries("ENVIRONMENT", "Ev"))
    yield from differences("the code", used, "ENVIRONMENT of provium(7)", stated)
    for command in COMMANDS:
        manual = page(command)
        for name in sorted(set(manual.entries("ENVIRONMENT", "Ev") if manual else []) - stated):
            yield f"{name}: in {command}(1), not in provium(7)"


def unknown_keys(noun, value):
    """The keys of vm or run that pv-json(7) does not have."""
    for key in sorted(set(value) - set(page("pv-json").entries(noun, "Li"))):
        yield f"{noun}.{key}: emitted, but not in pv-json(7)"


# Only when a disk fails by itself while a fault is at work, and what only an NBD client meets.
UNSEEN = {"corrects", "at", "bytes", "what", "instead_of"}


def key_problems():
    """What the commands emit must be in pv-json(7)."""
    json = page("pv-json")
    known = {noun: set(json.entries(noun, "Li")) for noun in ("disk", "rule", "data", "kind",
                                                              "extent", "io", "sweep", "held",
                                                              "mark", "state", "preset", "repair",
                                                              "verdict")}
    known["summary"] = set(json.entries("event and summary", "Li"))
    known["event"] = set(page("pv-faults").entries("JOURNAL", "Li"))
    known["error"] = set(json.entries("ERROR DOCUMENTS", "Li"))
    seen = {noun: set() for noun in known}
    with Scratch() as scratch:
        lines = [
            "pv-disk create t.img --size 1M", "pv-disk serve d --image t.img", "pv-disk info d",
            "pv-disk stats d", "pv-disk size d", "pv-disk write d --from t.img",
            "pv-fault add --disk d slow --op flush", "pv-fault add --disk d eio_read",
            "pv-disk read d", "pv-disk flush d", "pv-disk map d", "pv-disk io d",
            "pv-disk resize d 2M", "pv-disk wait-resize d --from 1M", "pv-fault list --disk d",
            "pv-fault journal --disk d", "pv-fault clear --disk d", "pv-disk read d",
            "pv-disk read d --sector 4096", "pv-fault kinds", "pv-disk list", "pv-disk close d",
            "pv-disk close d", "pv-fault sweep --memory 1M --max 1 -- true",
            "pv-disk serve f --memory 4M",
            "pv-fault add stall --disk f --set max_ms=1 --id s", "pv-disk read f",
            "pv-fault held --disk f", "pv-fault release --disk f", "pv-fault wait s --disk f",
            "pv-fault assert --disk f", "pv-fault mark now --disk f", "pv-fault state --disk f",
            "pv-fault add medium --disk f --sector 1", "pv-disk read f --count 2",
            "pv-fault add torn_write --disk f --nth 1", "pv-disk write f --from t.img",
            "pv-fault add misdirect_write --disk f --nth 1", "pv-disk write f --from t.img",
            "pv-fault clear --disk f --repair", "pv-fault add short --disk f --nth 1",
            "pv-disk read f --count 2", "pv-fault add corrupt_read --disk f", "pv-disk read f",
            "pv-fault journal --disk f", "pv-fault preset", "pv-fault preset lying-ssd --disk f",
            "pv-disk close f"]
        for line in lines:
            for document in scratch.json(*line.split()):
                for noun, value in document.items():
                    if noun in known:
                        seen[noun] |= set(value)
                    elif noun not in ("v", "cleared", "released", "rules"):
                        yield f"{line}: key '{noun}' is unknown to this check and to pv-json(7)"
    yield from scratch.left
    for noun, keys in seen.items():
        for key in sorted(keys - known[noun]):
            yield f"{noun}.{key}: emitted, but not in the manual"
    for noun in ("rule", "data", "kind", "extent", "summary", "event"):
        for key in sorted(known[noun] - seen[noun] - UNSEEN):
            yield f"{noun}.{key}: in the manual, but not emitted"


def verify_key_problems():
    """The same for pv-verify, whose documents have a section of their own."""
    known = set(page("pv-json").entries("range, bad and fill", "Li"))
    seen = set()
    with Scratch() as scratch:
        (pathlib.Path(scratch.work) / "b.img").write_bytes(b"x" * 1048576)
        lines = ["pv-disk create a.img --size 1M", "pv-verify compare a.img b.img --map",
                 "pv-verify fill a.img --seed 1", "pv-verify check a.img --seed 2",
                 "pv-verify fill a.img --format raw", "pv-verify check b.img",
                 "pv-verify check a.img --generation 2"]
        for line in lines[1:] if scratch.json(*lines[0].split()) else []:
            for document in scratch.json(*line.split()):
                for noun in set(document) - {"v"}:
                    seen |= set(document[noun])
    for key in sorted(seen - known):
        yield f"pv-verify emits '{key}', which is not in pv-json(7)"
    for key in sorted(known - seen - {"from_bytes"}):
        yield f"{key}: in 'range, bad and fill' of pv-json(7), but not emitted"


def command_problems(command):
    manual = page(command)
    yield from manual_problems(dump(command), manual) if manual else [
        f"man/{command}.1 is missing"]


def lint_problems(path):
    lint = run(["mandoc", "-T", "lint", "-W", "warning", path])
    yield from (lint.stdout + lint.stderr).splitlines()


def check(tap):
    for command in COMMANDS:
        if not (BIN / command).exists():
            tap.check(f"{command} is built", [f"{BIN / command} is missing; run make"])
            continue
        tap.check(f"{command}: the manual has every verb and flag, and no other",
                  command_problems(command))
        tap.check(f"{command}: help and usage errors", help_problems(command))
    tap.check("error codes and exit classes are those of pv-json(7)", code_problems())
    tap.check("environment variables are those of provium(7)", environment_problems())
    tap.check("document keys are those of pv-json(7)", key_problems())
    tap.check("document keys of pv-verify are those of pv-json(7)", verify_key_problems())
    for path in sorted((ROOT / "man").glob("*.[1-9]")):
        tap.check(f"man/{path.name} is clean", lint_problems(path))

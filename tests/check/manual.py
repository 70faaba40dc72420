# SPDX-License-Identifier: MIT
"""Reads mdoc sources, as far as the checks need it. How a manual says what a verb takes:

    .Sh VERBS, then .Ss VERB or a list entry .It Cm VERB      the verb
    .It Fl -flag ... below it                                 a flag of that verb
    .Sx TITLE in its text                                     ... and the flags listed there
    "options of" at the end of a line, then .Cm VERB          ... and the flags of that verb
    .Ss or .Sh "Common options", "Options of every verb"      flags of all verbs
"""
import re

COMMON = ("common options", "options of every verb")
MACROS = {"Ar", "Ns", "Op", "Oo", "Oc", "Cm", "Ic", "Li", "Ql", "No", "Pq", "Sq", "Dv", "Ev", "Pa",
          "Nm", "Xr", "Sy", "Ta", "Er", "Fl"}


def flags_in(line):
    """{"-o", "--output"} for '.It Fl o Ar FIELD , Fl -output Ar FIELD'."""
    found, inside = set(), False
    for token in line.split():
        token = token.lstrip(".")
        if token in MACROS:
            inside = token == "Fl"
        elif inside and re.match(r"-?[A-Za-z]", token):
            found.add("-" + token.split("=")[0])
        elif inside and token not in ("|", ","):
            inside = False
    return found


def unescape(text):
    """Plain text of one line: what roff would print."""
    for escape, plain in ((r"\&", ""), (r"\(dq", '"'), (r"\-", "-"), (r"\e", "\\")):
        text = text.replace(escape, plain)
    return text


class Page:
    def __init__(self, path):
        self.path = path
        self.lines = path.read_text().splitlines()
        self.verbs = {}      # verb -> flags listed below it
        self.includes = {}   # verb -> titles of sections and names of verbs that it refers to
        self.groups = {}     # lower-case title -> flags listed there
        self.mentions = set()
        self._read()

    def _read(self):
        section = title = ""
        verb, depth, before = None, 0, ""
        for line in self.lines:
            words = line.split()
            macro = words[0] if words else ""
            if macro in (".Sh", ".Ss"):
                title = " ".join(words[1:]).strip('"')
                section = title if macro == ".Sh" else section
                named = macro == ".Ss" and section == "VERBS" and re.fullmatch(r"[a-z-]+", title)
                verb = title if named else None
            depth += (macro == ".Bl") - (macro == ".El")
            if section == "VERBS" and words[:2] == [".It", "Cm"] and depth == 1:
                verb = words[2]
            if verb:
                self.verbs.setdefault(verb, set())
            self._note_include(verb, macro, words, before)
            flags = flags_in(line) if line.startswith(".") else set()
            self.mentions |= flags
            if macro == ".It":
                (self.verbs[verb] if verb else self.groups.setdefault(title.lower(), set())).update(
                    flags)
            before = line

    def _note_include(self, verb, macro, words, before):
        if not verb:
            return
        if macro == ".Sx":
            names = re.sub(r"[ ,.;:]+$", "", " ".join(words[1:])).lower()
            self.includes.setdefault(verb, set()).add(names)
        if macro == ".Cm" and before.endswith("options of"):
            self.includes.setdefault(verb, set()).add(words[1])

    def common(self):
        return set().union(*(self.groups.get(title, set()) for title in COMMON))

    def flags_of(self, verb):
        """The flags of a verb that are not common to all."""
        flags = set(self.verbs[verb])
        for name in self.includes.get(verb, ()):
            flags |= self.groups.get(name, set()) | self.verbs.get(name, set())
        return flags

    def section(self, title):
        """The lines of one .Sh or .Ss section, without those of what follows it."""
        lines, inside = [], False
        for line in self.lines:
            if re.match(r"\.S[hs] ", line):
                inside = line[4:].strip('"') == title
            elif inside:
                lines.append(line)
        return lines

    def entries(self, title, macro):
        """["id", "scope"] for '.It Li id , scope' in the lists of one section."""
        names = []
        for line in self.section(title):
            match = re.match(rf"\.It {macro} (.*)", line)
            if match:
                names += [name for name in match[1].split() if re.match(r"[A-Za-z]\w*$", name)]
        return names

    def table(self, title):
        """The rows of the .Bl -column list of one section, without its heading."""
        rows = []
        for line in self.section(title):
            if line.startswith(".It ") and " Ta " in line and not line.startswith(".It Sy"):
                cells = [re.sub(r"^Li ", "", cell.strip()) for cell in line[4:].split(" Ta ")]
                rows.append([unescape(cell) for cell in cells])
        return rows

    def examples(self):
        """(line number, mark, text) of each literal block in a section called Examples. The mark is
        what stands in a comment before it: 'run', 'run vm', 'not run: why'; '' without one."""
        inside, block, mark, start = False, None, "", 0
        for number, line in enumerate(self.lines, 1):
            if re.match(r"\.S[hs] ", line):
                inside = "examples" in line.lower()
            if block is not None and line == ".Ed":
                yield start, mark, "\n".join(block) + "\n"
                block = None
            elif block is not None:
                block.append(unescape(line))
            elif inside and line.startswith(".Bd -literal"):
                block, start = [], number
                before = self.lines[number - 2]
                mark = before[3:].strip() if before.startswith('.\\"') else ""

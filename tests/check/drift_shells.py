# SPDX-License-Identifier: MIT
"""Completions of bash, zsh and fish against --dump-cli: each offers all verbs, and for each verb
all flags. Each shell is started once and completes many lines."""
import os
import pty
import re
import select
import shutil
import signal
import time

from tap import BIN, COMMANDS, ROOT, Scratch, dump, flags_of

FOLDER = ROOT / "completions"
END = "=end of line="


def wanted():
    """[(command line, words that must be offered)]"""
    lines = []
    for command in COMMANDS:
        if not (BIN / command).exists():
            continue
        tree = dump(command)
        lines.append((f"{command} ", {verb["name"] for verb in tree["verbs"]}))
        lines.append((f"{command} --", {flag for flag in flags_of(tree) if flag[:2] == "--"}))
        for verb in tree["verbs"]:
            flags = {flag for flag in flags_of(verb) if flag[:2] == "--"}
            lines.append((f"{command} {verb['name']} --", flags))
    registry = (ROOT / "lib/blk/registry.cpp").read_text()
    layers = re.findall(r'\{"(\w+)", "[^"]*", \w+_params\(\)', registry)
    lines.append(("pv-disk serve --layer ", set(layers)))
    formats = re.findall(r'\{"(\w+)", "\.\w+",', (ROOT / "lib/blk/format.cpp").read_text())
    lines.append(("pv-disk create x --format ", {"raw", *formats}))
    lines.append(("pv-disk info ", {"completed-disk"}))
    lines.append(("pv-fault add --disk ", {"completed-disk"}))
    lines.append(("pv-fault add ", {"eio_read", "eio_write", "slow", "error", "delay"}))
    lines.append(("pv-disk serve --image /etc/hostn", {"/etc/hostname"}))
    return lines


def bash_answers(scratch, lines):
    script = f"source {FOLDER}/provium.bash\n"
    for line, _ in lines:
        words = line.split(" ")
        script += (f"COMP_WORDS=({' '.join(words[:-1])} '{words[-1]}')\n"
                   f"COMP_CWORD={len(words) - 1}\n_provium\n"
                   f"printf '%s\\n' \"${{COMPREPLY[@]}}\" '{END}'\n")
    return scratch.run("bash", "--norc", "-c", script)


def fish_answers(scratch, lines):
    script = f"source {FOLDER}/provium.fish\n"
    script += "".join(f"complete -C'{line}'\necho '{END}'\n" for line, _ in lines)
    return scratch.run("fish", "--no-config", "-c", script)


ZSH_SETUP = """
autoload -Uz compinit; compinit -u -D
compadd() {{
  [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)\\ * ]] && {{ builtin compadd "$@"; return }}
  local -a found
  builtin compadd -O found "$@"
  print -rl -- $found >>{out}
}}
_files() {{ print -rl -- $PREFIX*(N) ${{~PREFIX}}*(N) >>{out} }}
next-line() {{ print -r -- '{end}' >>{out}; BUFFER=; }}
zle -N next-line; bindkey '^X' next-line; bindkey '^I' complete-word
"""


class Answer:
    def __init__(self, stdout, stderr=""):
        self.stdout, self.stderr, self.returncode = stdout, stderr, 0


def zsh_answers(scratch, lines):
    """A zsh on a terminal of its own, where lines and Tab are typed; matches go to a file."""
    out = scratch.dir + "/zsh.out"
    with open(scratch.dir + "/.zshrc", "w", encoding="utf-8") as setup:
        setup.write(f"fpath=({FOLDER} $fpath)\n" + ZSH_SETUP.format(out=out, end=END))
    env = dict(scratch.env, ZDOTDIR=scratch.dir, TERM="dumb", PS1="")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-d", "-i"], env)
    typed = "".join(f"{line}\t\x18" for line, _ in lines).encode()
    shown, text, deadline = b"", "", time.monotonic() + 300
    while text.count(END) < len(lines) and time.monotonic() < deadline:
        readable, writable, _ = select.select([terminal], [terminal] if typed else [], [], 0.05)
        try:
            if writable:
                typed = typed[os.write(terminal, typed[:256]):]
            if readable:
                shown += os.read(terminal, 4096)
        except OSError:
            break
        if os.path.exists(out):
            with open(out, encoding="utf-8") as answers:
                text = answers.read()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)
    return Answer(text, shown.decode(errors="replace")[-400:])


def problems(shell, answers):
    lines = wanted()
    with Scratch() as scratch:
        scratch.run("pv-disk", "serve", "completed-disk", "--memory", "1M")
        answer = answers(scratch, lines)
    blocks = answer.stdout.split(END + "\n")
    if len(blocks) != len(lines) + 1:
        yield f"{shell} answered {len(blocks) - 1} of {len(lines)} lines: {answer.stderr.strip()}"
        return
    for (line, words), block in zip(lines, blocks):
        offered = {row.split("\t")[0].strip().rstrip(":") for row in block.splitlines()}
        for word in sorted(words - offered):
            yield f"'{line}' does not offer {word}"
        if line.endswith(" ") and line.count(" ") == 1 or line.endswith(" --"):
            for word in sorted(offered - words - {""}):
                yield f"'{line}' offers {word}, which is none"
    yield from scratch.left


def check(tap):
    for shell, answers in (("bash", bash_answers), ("zsh", zsh_answers), ("fish", fish_answers)):
        if shutil.which(shell):
            tap.check(f"{shell} completes all verbs and flags", problems(shell, answers))
        else:
            tap.skip(f"{shell} completes all verbs and flags", f"{shell} is not installed")

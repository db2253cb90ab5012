"""Commands: shell text that parses, and programs of the project with subcommands and options that they have."""
import functools
import pathlib
import re
import subprocess

from .project import PROGRAMS
from .shell import block_commands, simple_commands

# First words of a span that is a command of llama-gateway without its name, as in tables.
BARE = {"serve", "keys", "tokens", "usage", "check-config"}


def shell(project, document):
    """Shell blocks and console commands parse."""
    for block in document.blocks:
        if block.language not in ("sh", "bash", "console"):
            continue
        for line, text in block_commands(block):
            outcome = subprocess.run(["bash", "-n"], input=text + "\n", capture_output=True, text=True, timeout=20)
            if outcome.returncode != 0 or outcome.stderr:
                yield line, "bash does not understand this: " + outcome.stderr.strip().splitlines()[-1]


def commands(project, document):
    """Programs and scripts of the project are called with what they know."""
    for line, words in all_commands(document):
        yield from ((line, fault) for fault in _faults(project, words))


def all_commands(document):
    """(line, words) of each command in blocks and in spans; what follows `--` of an `exec` is one by itself."""
    found = []
    for block in document.blocks:
        for line, text in block_commands(block):
            found += [(line + offset, words) for offset, _, words in simple_commands(text) if words]
    for line, text in document.spans:
        first = text.split(" ")[0]
        if " " not in text:
            continue  # a name or a path
        if pathlib.PurePath(first).name in PROGRAMS or first.lstrip("./").startswith("scripts/"):
            found += _of_span(line, text)
        elif first in ("oc", "kubectl"):
            found += _of_span(line, text)
        elif first in BARE and re.match(r"\S+ (-|\[|[a-z])", text):
            found += _of_span(line, "llama-gateway " + text)
    for line, words in list(found):
        if words[0] in ("oc", "kubectl") and "--" in words[:-1]:
            found.append((line, words[words.index("--") + 1:]))
    return found


def _of_span(line, text):
    # A synopsis has brackets, dots and alternatives.
    plain = re.sub(r"\\?\||[\[\]]|\.\.\.|…", " ", text)
    return [(line, words) for _, _, words in simple_commands(plain) if words]


def _faults(project, words):
    name = pathlib.PurePath(words[0]).name
    if name in PROGRAMS:
        return _program(project, name, words[1:])
    script = words[0][2:] if words[0].startswith("./") else words[0]
    if script.startswith("scripts/"):
        return _script(project, script, words[1:])
    return []


def _program(project, program, words):
    path, text = (), project.usage(program)
    skip = False
    for word in words:
        if skip:
            skip = False
            continue
        options, subcommands = parsed(text)
        if word.startswith("-") and word != "-":
            option = word.split("=")[0]
            if option not in options:
                return [f"{' '.join((program,) + path)} has no option {option}"]
            skip = options[option] and "=" not in word
        elif subcommands and re.match(r"^[a-z][a-z-]*$", word):
            if word not in subcommands:
                return [f"{' '.join((program,) + path)} has no command {word}"]
            path += (word,)
            text = project.usage(program, *path)
    return []


@functools.lru_cache(maxsize=None)
def parsed(text):
    """The options of a help text, with whether they take a value, and its subcommands."""
    options = {"--help": False, "-h": False}
    for match in re.finditer(r"^ +((?:-\w, )?--[\w-]+|-\w)\b([ =]<|[ =]\[)?", text, re.MULTILINE):
        for option in match[1].split(", "):
            options[option] = match[2] is not None
    listed = re.search(r"^Commands:\n((?:  .*\n?)+)", text, re.MULTILINE)
    return options, set(re.findall(r"^  ([a-z][\w-]*)", listed[1], re.MULTILINE)) if listed else set()


def _script(project, script, words):
    path = project.root / script
    if path.is_dir():
        return []
    if not path.is_file():
        return [f"{script}: there is no such script"]
    text = script_text(path)
    return [f"{script} does not know {word}" for word in words
            if (word.startswith("--") or word in ("switch-model",)) and not _knows(text, word.split("=")[0])]


@functools.lru_cache(maxsize=None)
def script_text(path):
    """A script and what lies in its own directory below scripts/lib, without lines of comments."""
    parts = [path] + sorted((path.parent / "lib" / path.stem).glob("*.*sh")) + \
        sorted((path.parent / "lib" / path.stem.replace("lint-manifests", "lint")).glob("*.py"))
    text = "\n".join(part.read_text(encoding="utf-8", errors="ignore") for part in parts)
    return re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)


def _knows(text, word):
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None

"""Shell text as simple commands: words, without redirections, comments and the bodies of here documents."""
import re
import shlex

KEYWORDS = {"do", "then", "else", "if", "while", "until", "!", "{", "time", "exec", "sudo", "command"}
REDIRECTIONS = {">", ">>", "<", "<<", "<<<", ">&", "&>", "&>>", "<&", ">|"}
ASSIGNMENT = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)=")


def block_commands(block):
    """(line, command text) of a code block: all of `sh`, what follows a prompt in `console`, and what is indented."""
    lines = block.text.split("\n")
    if block.language in ("sh", "bash", "shell"):
        return [(block.line, block.text)]
    if block.language != "console":
        return [(block.line + at, line) for at, line in enumerate(lines)] if block.indented else []
    found, open_quote = [], False
    for at, line in enumerate(lines):
        if line.startswith("$ "):
            found.append([block.line + at, line[2:]])
        elif found and (open_quote or found[-1][1].endswith("\\")):
            found[-1][1] += "\n" + line
        else:
            continue
        open_quote = (found[-1][1].count("'") % 2) == 1
    return [tuple(item) for item in found]


def simple_commands(text):
    """(line offset, assignments, words) of each command in a text, those in $(...) and <(...) included."""
    found = []
    for offset, tokens in _statements(_without_noise(text)):
        words, skip = [], False
        for at, token in enumerate(tokens):
            if skip:
                skip = False
            elif token in REDIRECTIONS:
                skip = True
                if words and words[-1].isdigit():
                    words.pop()
            elif set(token) <= set(";|&()<>\n"):
                _add(found, offset, words)
                words = []
            else:
                words.append(token)
        _add(found, offset, words)
    return found


def _add(found, offset, words):
    assignments = []
    words = list(words)
    while words and (words[0] in KEYWORDS or words[0] == "env" or ASSIGNMENT.match(words[0])):
        match = ASSIGNMENT.match(words[0])
        if match:
            assignments.append(match[1])
        words = words[1:]
    if words or assignments:
        found.append((offset, assignments, words))
    for word in words:
        for inner in re.findall(r"\$\(([^()]*)\)", word):
            found.extend((offset, given, more) for _, given, more in simple_commands(inner))


def _without_noise(text):
    text = re.sub(r"\\\n", "  ", text)  # the words stay apart; lines are told by the first one
    text = re.sub(r"<<-?\s*['\"]?(\w+)['\"]?(.*)\n(?:.*\n)*?\s*\1[ \t]*(?=\n|$)", r"\2", text)
    lines = []
    for line in text.split("\n"):
        for match in re.finditer(r"(?:^|\s)#", line):
            before = line[: match.start()]
            if before.count("'") % 2 == 0 and before.count('"') % 2 == 0:
                line = before
                break
        lines.append(line)
    return "\n".join(lines)


def _statements(text):
    """Lines as tokens; one that is not complete takes the next ones with it."""
    pending, start = "", 0
    for offset, line in enumerate(text.split("\n")):
        start = start if pending else offset
        pending += ("\n" if pending else "") + line
        lexer = shlex.shlex(pending, posix=True, punctuation_chars=";|&()<>")
        lexer.whitespace_split, lexer.commenters = True, ""
        try:
            tokens = list(lexer)
        except ValueError:
            continue
        pending = ""
        if tokens:
            yield start, tokens

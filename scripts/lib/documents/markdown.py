"""A Markdown file as far as the rules need it: headings, links, code spans and code blocks, with their lines."""
import dataclasses
import re

FENCE = re.compile(r"^(\s*)(```+|~~~+)\s*([\w+-]*)")
SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()\s<>]+(?:\([^()\s]*\)[^()\s]*)?)>?(?:\s+\"[^\"]*\")?\s*\)")
DEFINITION = re.compile(r"^\s{0,3}\[[^\]]+\]:\s+<?(\S+?)>?\s*$")
HTML_LINK = re.compile(r"<(?:img|source|a)\b[^>]*?\b(?:src|srcset|href)=\"([^\"]+)\"")
HTML_ANCHOR = re.compile(r"<a\b[^>]*?\b(?:id|name)=\"([^\"]+)\"")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced or indented code block; `language` is empty for an indented one, `line` is that of its first line."""
    line: int
    language: str
    text: str
    indented: bool


class Document:
    """One file; `lines` are its lines of prose, with code blocks blanked out."""

    def __init__(self, path, name):
        self.path, self.name = path, name
        self.blocks, self.lines = [], []
        self._split(path.read_text(encoding="utf-8").splitlines())
        self.spans = self._spans()
        self.anchors = self._anchors()
        self.links = self._links()

    def __str__(self):
        return self.name

    def _split(self, lines):
        fence, block, start = None, [], 0
        for at, line in enumerate(lines, 1):
            match = FENCE.match(line)
            if fence is None and match:
                fence, block, start = match, [], at + 1
            elif fence is not None and line.strip().startswith(fence[2]) and not line.strip().strip(fence[2][0]):
                text = "\n".join(inner[len(fence[1]):] for inner in block)
                self.blocks.append(Block(start, fence[3], text, False))
                fence = None
            elif fence is not None:
                block.append(line)
            else:
                self.lines.append(line)
                continue
            self.lines.append("")
        if fence is not None:
            raise ValueError(f"{self.name}:{start - 1}: a code block that is never closed")
        self._take_indented()

    def _take_indented(self):
        """Blocks that are indented by four blanks after an empty line; in a list they are its text."""
        block, start, in_list = [], 0, False
        for at, line in enumerate(self.lines + [""], 1):
            if line.startswith("    ") and not in_list and (block or at == 1 or not self.lines[at - 2].strip()):
                start = start or at
                block.append(line[4:])
                self.lines[at - 1] = ""
                continue
            if block:
                self.blocks.append(Block(start, "", "\n".join(block), True))
                block, start = [], 0
            if re.match(r"\s*([-*+]|\d+\.)\s", line):
                in_list = True
            elif line.strip() and not line.startswith(" "):
                in_list = False

    def _spans(self):
        text, found = "\n".join(self.lines), []
        for match in SPAN.finditer(text):
            if "\n\n" not in match[2]:
                found.append((text.count("\n", 0, match.start()) + 1, " ".join(match[2].split())))
        return found

    def _without_spans(self):
        # The length stays, so that lines do.
        return SPAN.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), "\n".join(self.lines))

    def _links(self):
        text, found = self._without_spans(), []
        for pattern in (LINK, HTML_LINK):
            found += [(text.count("\n", 0, match.start()) + 1, match[1]) for match in pattern.finditer(text)]
        for at, line in enumerate(text.split("\n"), 1):
            match = DEFINITION.match(line)
            if match:
                found.append((at, match[1]))
        return found

    def _anchors(self):
        """Anchors as GitHub makes them of headings; equal ones are numbered."""
        found, seen = set(), {}
        for line in self.lines:
            found.update(HTML_ANCHOR.findall(line))
            match = re.match(r"^#{1,6}\s+(.*?)\s*#*$", line)
            if not match:
                continue
            slug = slug_of(match[1])
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            found.add(f"{slug}-{count}" if count else slug)
        return found


def slug_of(heading):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"<[^>]*>", "", text)
    text = re.sub(r"[^\w\- ]", "", text.lower())
    return text.replace(" ", "-")

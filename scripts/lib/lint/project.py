"""What the manifests must agree with: version, settings, metrics, parameters and documents of this repository."""
import json
import re
from collections import namedtuple
from functools import lru_cache
from pathlib import Path

Metric = namedtuple("Metric", "kind labels meaning", defaults=("",))
Setting = namedtuple("Setting", "variable default")

# What must be in the ConfigMap, so that who tunes the server finds it there. The others have defaults that rarely
# change.
TUNED = {"MODEL_REPO", "QUANT_TYPE", "TEMPERATURE", "MIN_P", "CTX_SIZE", "N_GPU_LAYERS", "MoE_OFFLOAD", "THREADS"}
# Every HTTP client reads these.
PROXIES = {"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"}


class ProjectError(Exception):
    """Says what the rules need of the repository and do not find, and ends with a hint."""


class Project:
    """The repository. Files are read when a rule asks for them, once."""

    def __init__(self, root):
        self.root = Path(root)

    @lru_cache(maxsize=None)
    def read(self, name):
        try:
            return (self.root / name).read_text(encoding="utf-8")
        except OSError as error:
            raise ProjectError("%s\nhint: run it in a whole working copy of the project" % error) from None

    @lru_cache(maxsize=None)
    def find(self, pattern, name):
        """All matches in a file. None at all is an error: rules would have nothing to compare with."""
        found = re.findall(pattern, self.read(name), re.MULTILINE)
        if not found:
            raise ProjectError("%s: nothing in it looks like %s\nhint: the file has another form now; correct the "
                               "pattern in scripts/lib/lint/project.py" % (name, pattern))
        return found

    @property
    def version(self):
        """The version of the workspace, which is the tag of both images."""
        return self.find(r'\[workspace\.package\][^\[]*?^version = "([^"]+)"', "Cargo.toml")[0]

    @property
    def last_words(self):
        """Seconds that streams have after the gateway's drain grace."""
        pattern = r"LAST_WORDS: Duration = Duration::from_secs\((\d+)\)"
        return int(self.find(pattern, "gateway/src/server/drain.rs")[0])

    @property
    @lru_cache(maxsize=None)
    def metrics(self):
        """The gateway's metrics, by name."""
        found = self.find(r"^\| `(llama_gateway_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", "docs/metrics.md")
        return {name: Metric(kind, frozenset(re.findall(r"`(\w+)`", labels)), meaning)
                for name, kind, labels, meaning in found}

    @property
    @lru_cache(maxsize=None)
    def buckets(self):
        """The upper bounds of the gateway's histograms, by name."""
        file = "gateway/src/metrics.rs"
        bounds = {name: {float(bound) for bound in re.findall(r"[\d.]+", text)}
                  for name, text in self.find(r"^const (\w+_BUCKETS): &\[f64\] =\s*&\[([^\]]*)\]", file)}
        return {"llama_gateway_" + name: bounds[constant] for name, constant in self.find(
            r"^    (\w+): Histogram(?:Vec)? =\s*[^;]*?buckets\((\w+)\.into", file)}

    @property
    @lru_cache(maxsize=None)
    def label_values(self):
        """The values that labels have which name the same in several metrics: reasons, endings, surfaces."""
        pattern = r'Self::\w+ => "([a-z_]+)"'
        reasons = set(self.find(pattern, "gateway/src/error.rs"))
        return {"reason": reasons, "ending": reasons.union(self.find(pattern, "gateway/src/ledger/entry.rs")),
                "surface": set(self.find(pattern, "gateway/src/surface/mod.rs"))}

    @property
    @lru_cache(maxsize=None)
    def settings(self):
        """The gateway's settings, by dotted key."""
        found, section = {}, ""
        for heading, key, default, variable in self.find(
                r"^## (.+)|^\| `(\w+)` \| `(.*?)` \| `(\w+)` \|", "docs/configuration.md"):
            section = heading.strip() or section
            if key:
                found["%s.%s" % (section, key)] = Setting(variable, default)
        return found

    @property
    @lru_cache(maxsize=None)
    def parameters(self):
        """The parameters of llama-server's container and of its preStop hook, with their defaults."""
        pattern = r"\$\{([A-Z]\w+):[=-]([^}]*)\}"
        return dict(self.find(pattern, "server-image/entrypoint.sh") + self.find(pattern, "server-image/drain.sh"))

    @property
    @lru_cache(maxsize=None)
    def fetcher_parameters(self):
        """The names of the parameters of model-fetcher."""
        return PROXIES.union(self.find(r'"([A-Z0-9]+(?:_[A-Z0-9]+)+)"', "server-image/model-fetcher/src/parameters.rs"))

    @lru_cache(maxsize=None)
    def anchors(self, document):
        """The anchors of a document's headings, as GitHub makes them; None if there is no such document."""
        if not (self.root / document).is_file():
            return None
        return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
                for heading in re.findall(r"^#+ (.+)$", self.read(document), re.MULTILINE)}


def parse_settings(text):
    """The keys and values of a file for the gateway, and the numbers of lines that are not understood.

    Only what such a file needs, since Python 3.9 has nothing that reads TOML: tables, texts, numbers and lists.
    """
    values, strange, section = {}, [], ""
    for number, line in _logical_lines(text):
        table = re.fullmatch(r"\[\s*([\w.-]+)\s*\]", line)
        pair = re.fullmatch(r"([\w.-]+)\s*=\s*(.+)", line, re.DOTALL)
        if table:
            section = table.group(1) + "."
            continue
        try:
            # A literal text has no escapes; a list may end with a comma.
            plain = _LITERAL.sub(lambda match: match[0] if match[1] is None else json.dumps(match[1]), pair.group(2))
            values[section + pair.group(1)] = json.loads(re.sub(r",\s*\]$", "]", plain))
        except (AttributeError, ValueError):
            strange.append(number)
    return values, strange


_TEXT = r'"(?:[^"\\\n]|\\.)*"'
_LITERAL = re.compile(_TEXT + r"|'([^'\n]*)'")
_COMMENT = re.compile("(" + _TEXT + r"|'[^'\n]*')|#.*")


def _logical_lines(text):
    """(number of the first line, text without comments) of each line; one with an open list goes on in the next."""
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub(lambda match: match[1] or "", line).strip()
        start = start if pending else number
        pending = (pending + " " + line).strip()
        if pending and not ("=" in pending and pending.count("[") > pending.count("]")):
            yield start, pending
            pending = ""
    if pending:
        yield start, pending

"""What the manifests must agree with: version, settings, metrics, parameters and documents of this repository."""
import json
import re
from collections import namedtuple
from functools import lru_cache
from pathlib import Path

Metric = namedtuple("Metric", "kind labels")
Setting = namedtuple("Setting", "variable default")

# What must be in the ConfigMap, so that who tunes the server finds it there. The others have defaults that rarely
# change.
TUNED = {"MODEL_REPO", "QUANT_TYPE", "TEMPERATURE", "MIN_P", "CTX_SIZE", "N_GPU_LAYERS", "MoE_OFFLOAD", "THREADS"}
# Every HTTP client reads these.
PROXIES = {"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"}

# Sections of the gateway's file whose tables have names of the operator's choice.
FREE_SECTIONS = ("policies", "tenants", "issuers", "prices", "queue.classes", "requests.extra_fields")


class Project:
    """The repository. Files are read when a rule asks for them, once."""

    def __init__(self, root):
        self.root = Path(root)

    @lru_cache(maxsize=None)
    def read(self, name):
        return (self.root / name).read_text(encoding="utf-8")

    @property
    def version(self):
        """The version of the workspace, which is the tag of both images."""
        return re.search(r'\[workspace\.package\][^\[]*?^version = "([^"]+)"', self.read("Cargo.toml"),
                         re.MULTILINE).group(1)

    @property
    def last_words(self):
        """Seconds that streams have after the gateway's drain grace."""
        return int(re.search(r"LAST_WORDS: Duration = Duration::from_secs\((\d+)\)",
                             self.read("gateway/src/server/drain.rs")).group(1))

    @property
    @lru_cache(maxsize=None)
    def metrics(self):
        """The gateway's metrics, by name."""
        rows = re.compile(r"^\| `(llama_gateway_\w+)` \| (\w+) \| (.*?) \|", re.MULTILINE)
        found = rows.findall(self.read("docs/metrics.md"))
        return {name: Metric(kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in found}

    @property
    @lru_cache(maxsize=None)
    def settings(self):
        """The gateway's settings, by dotted key."""
        found = {}
        for section in re.split(r"^## ", self.read("docs/configuration.md"), flags=re.MULTILINE)[1:]:
            name = section.split("\n", 1)[0].strip()
            for key, default, variable in re.findall(r"^\| `(\w+)` \| `(.*?)` \| `(\w+)` \|", section, re.MULTILINE):
                found["%s.%s" % (name, key)] = Setting(variable, default)
        return found

    @property
    @lru_cache(maxsize=None)
    def parameters(self):
        """The parameters of llama-server's container and of its preStop hook, with their defaults."""
        scripts = self.read("server-image/entrypoint.sh") + self.read("server-image/drain.sh")
        return dict(re.findall(r"\$\{([A-Z]\w+):[=-]([^}]*)\}", scripts))

    @property
    @lru_cache(maxsize=None)
    def fetcher_parameters(self):
        """The names of the parameters of model-fetcher."""
        source = self.read("server-image/model-fetcher/src/parameters.rs")
        return set(re.findall(r'"([A-Z0-9]+(?:_[A-Z0-9]+)+)"', source)) | PROXIES

    @lru_cache(maxsize=None)
    def anchors(self, document):
        """The anchors of a document's headings, as GitHub makes them; None if there is no such document."""
        if not (self.root / document).is_file():
            return None
        return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
                for heading in re.findall(r"^#+ (.+)$", self.read(document), re.MULTILINE)}


def parse_settings(text):
    """The keys and values of a file for the gateway, and the numbers of lines that are not understood.

    Only what such a file needs: tables, and values on one line that are written as in JSON.
    """
    values, strange, section = {}, [], ""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        table = re.fullmatch(r"\[([\w.-]+)\](?:\s*#.*)?", line)
        pair = re.fullmatch(r"([\w.-]+)\s*=\s*(.+)", line)
        if table:
            section = table.group(1)
        elif pair:
            try:
                value, end = json.JSONDecoder().raw_decode(pair.group(2))
            except ValueError:
                strange.append(number)
                continue
            if not re.fullmatch(r"\s*(#.*)?", pair.group(2)[end:]):
                strange.append(number)
            values[("%s.%s" % (section, pair.group(1))).lstrip(".")] = value
        else:
            strange.append(number)
    return values, strange

"""The project that documents speak of: its files, programs, objects and names. All of it is read once."""
import functools
import os
import re
import subprocess

import yaml

from .markdown import Document

PROGRAMS = ["llama-gateway", "loadtest", "model-fetcher"]
# Directories that hold nothing of the project itself.
EVERYWHERE = {".git", ".cache", "target", "node_modules", "__pycache__", "loadtest-results"}


class Project:
    """`root` is the checkout, `binaries` the directory with the built programs."""

    def __init__(self, root, binaries):
        self.root, self.binaries = root, binaries
        self._documents = {}

    def missing_programs(self):
        """The programs that are not built."""
        return [name for name in PROGRAMS if not os.access(self.binaries / name, os.X_OK)]

    @functools.lru_cache(maxsize=None)
    def files(self):
        """All files of the project."""
        found = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if name not in EVERYWHERE)
            found += [os.path.join(folder, name) for name in sorted(names)]
        return found

    @functools.lru_cache(maxsize=None)
    def top_level(self):
        """Names of what lies in the root directory."""
        return set(os.listdir(self.root))

    def documents(self):
        """Every Markdown file. None at all is an error: nothing would be checked."""
        found = [self.document(type(self.root)(path)) for path in self.files() if path.endswith(".md")]
        if not found:
            raise ValueError(f"{self.root} has no Markdown file\nhint: name the project's folder by --root")
        return found

    def document(self, path):
        """One Markdown file, read once."""
        if path not in self._documents:
            name = str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)
            self._documents[path] = Document(path, name)
        return self._documents[path]

    @functools.lru_cache(maxsize=None)
    def words(self):
        """Every name that stands in a file which is no document."""
        found = set()
        for path in self.files():
            if path.endswith((".md", ".lock", ".svg")) or "/scripts/tests/test_" in path or os.path.getsize(path) > 2e6:
                continue
            with open(path, encoding="utf-8", errors="ignore") as file:
                found.update(re.findall(r"(?<!\w)(?:-D)?([A-Za-z_]\w*)", file.read()))
        return found

    @functools.lru_cache(maxsize=None)
    def manifests(self):
        """The objects of manifests/, templates of secrets included, and every `namespace:` of a kustomization."""
        objects = []
        for path in self.files():
            if "/manifests/" in path and path.endswith((".yaml", ".yaml.example")):
                with open(path, encoding="utf-8") as file:
                    objects += [item for item in yaml.safe_load_all(file) if isinstance(item, dict)]
        return objects

    @functools.lru_cache(maxsize=None)
    def usage(self, program, *words):
        """The help text of a subcommand of a program."""
        outcome = subprocess.run([self.binaries / program, *words, "--help"], stdin=subprocess.DEVNULL,
                                 capture_output=True, text=True, timeout=20)
        return outcome.stdout if outcome.returncode == 0 else ""

    def faults(self):
        """Faults between files: error codes without advice, and alerts whose runbook is not there."""
        return self._codes_without_advice() + self._runbooks()

    def _codes_without_advice(self):
        errors, trouble = self.root / "gateway/src/error.rs", self.root / "docs/TROUBLESHOOTING.md"
        text = errors.read_text(encoding="utf-8")
        labels = re.findall(r"Self::\w+ => \"([a-z_]+)\"", text.partition("fn label")[2].partition("pub fn")[0])
        if not labels:
            raise ValueError(f"{errors} has no codes\nhint: it has another form now; correct {__file__}")
        told = {span for _, span in self.document(trouble).spans}
        return [("docs/TROUBLESHOOTING.md", 1, "codes", f"the code {label} of gateway/src/error.rs is not told")
                for label in labels if label not in told]

    def _runbooks(self):
        found = []
        for path in self.files():
            if "/manifests/" not in path or not path.endswith((".yaml", ".yaml.example")):
                continue
            with open(path, encoding="utf-8") as file:
                for line, text in enumerate(file, 1):
                    for target, anchor in re.findall(r"runbook_url:.*?\b(docs/[\w./-]+\.md)(?:#([\w-]+))?", text):
                        aim = self.root / target
                        if not aim.exists() or (anchor and anchor not in self.document(aim).anchors):
                            name = os.path.relpath(path, self.root)
                            found.append((name, line, "runbooks", f"{target}#{anchor}: there is no such heading"))
        return found

"""Snippets of TOML, YAML, JSON and Python: they parse, and those of gateway.toml pass `llama-gateway check-config`."""
import json
import pathlib
import re
import subprocess
import tempfile

import yaml

# Files that a configuration may name; a snippet is checked where they are not.
NAMED_FILE = re.compile(r'^(\s*\w*file\s*=\s*)"(/[^"]*)"', re.MULTILINE)
PEM = re.compile(r'^\s*(?:ca_file|tls_certificate|tls_key|jwks_file)\s*=.*$', re.MULTILINE)


def snippets(project, document):
    """Blocks of data are what they are said to be."""
    for block in document.blocks:
        fault = CHECKS.get(block.language, lambda *_: None)(project, block.text)
        if fault:
            yield block.line, fault


def _json(_, text):
    try:
        # Dots stand for what is left out.
        json.loads(re.sub(r",?\s*\.\.\.", "", text))
    except ValueError as error:
        return f"this is no JSON: {error}"
    return None


def _yaml(_, text):
    try:
        list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        return "this is no YAML: " + " ".join(str(error).split())
    return None


def _python(_, text):
    try:
        compile(text, "snippet", "exec")
    except SyntaxError as error:
        return f"this is no Python: {error}"
    return None


def _toml(project, text):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        secret = folder / "secret"
        secret.write_text("0123456789abcdef0123456789abcdef\n", encoding="utf-8")
        (folder / "keys.toml").write_text("", encoding="utf-8")

        def stand_in(match):
            is_secret = re.match(r"\s*(\w+_)?(key|token)_file", match[1]) is not None
            return f'{match[1]}"{secret if is_secret else folder / "keys.toml"}"'

        config, told = folder / "gateway.toml", NAMED_FILE.sub(stand_in, PEM.sub("", text))
        for _ in range(5):
            config.write_text(told, encoding="utf-8")
            outcome = subprocess.run([project.binaries / "llama-gateway", "check-config", config],
                                     capture_output=True, text=True, timeout=20)
            # A snippet may name a policy that stands elsewhere.
            elsewhere = re.search(r"there is no policy `([\w-]+)`", outcome.stderr)
            if not elsewhere:
                break
            told += f"\n[policies.{elsewhere[1]}]\n"
    if outcome.returncode == 0:
        return None
    message = " ".join((outcome.stderr or outcome.stdout).replace(str(folder), "").split())
    # A workload of the load test is TOML, too; of it only the syntax is checked here.
    is_workload = re.search(r"^\s*(arrival|duration)\s*=|^\[(slo|fairness)", text, re.MULTILINE)
    if is_workload and "TOML parse error" not in message:
        return None
    return f"llama-gateway check-config refuses this: {message}"


CHECKS = {"json": _json, "python": _python, "yaml": _yaml, "toml": _toml}

"""Names of parameters and metrics that stand in documents exist in the project."""
import re

from .shell import block_commands, simple_commands

# Two words at least, the first one of letters, so that names of quantisations (Q4_K_M, IQ1_S) are none.
PARAMETER = re.compile(r"^([A-Z][A-Za-z]*[A-Za-z]_[A-Z][A-Z0-9_]*)(?:=\S*)?$")
# Other programs' own.
FOREIGN = re.compile(r"^(LLAMA_ARG_|CUDA_ERROR_|SSL_CERT_|ROUTER_|DCGM_|OTEL_)")
METRIC = re.compile(r"^(llama_gateway_[a-z0-9_]+)(?:\{.*\})?(?: \d+)?$")


def parameters(project, document):
    """Environment variables and parameters in backticks, and those that commands set, are read somewhere."""
    found = [(line, PARAMETER.match(text)) for line, text in document.spans]
    named = [(line, match[1]) for line, match in found if match]
    for block in document.blocks:
        for line, text in block_commands(block):
            for offset, assignments, words in simple_commands(text):
                if words:  # alone, it is a variable of the reader's own
                    named += [(line + offset, name) for name in assignments]
                named += [(line + offset, match[1]) for match in map(PARAMETER.match, words) if match]
    for line, name in named:
        if not FOREIGN.match(name) and name.isascii() and not _known(project, name):
            yield line, f"{name}: nothing in the project reads it"


def _known(project, name):
    if name.startswith("LLAMA_GATEWAY_"):
        # The gateway makes these names of its keys; their list is made from it, too.
        return f"`{name}`" in (project.root / "docs/configuration.md").read_text(encoding="utf-8")
    return name in project.words()


def metrics(project, document):
    """Metrics of the gateway that are named in full are on the page of its metrics."""
    text = (project.root / "docs/metrics.md").read_text(encoding="utf-8")
    for line, span in document.spans:
        match = METRIC.match(span)
        if match and not re.search(rf"\b{re.sub('_(bucket|sum|count)$', '', match[1])}", text):
            yield line, f"the gateway has no metric {match[1]}"

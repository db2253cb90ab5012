"""Which file holds which dashboard, and whether the files are what the definitions say."""
import sys
from pathlib import Path

from . import grafana, openshift, prometheus
from .capacity import CAPACITY
from .overview import OVERVIEW
from .service import SERVICE
from .tenants import TENANTS


DASHBOARDS = {
    "manifests/components/grafana/dashboards/service.json": SERVICE,
    "manifests/components/grafana/dashboards/tenants.json": TENANTS,
    "manifests/components/grafana/dashboards/capacity.json": CAPACITY,
    "manifests/components/console-dashboard/llama-gateway.json": OVERVIEW,
    "manifests/consoles/llama-gateway.html": OVERVIEW,
}
WRITERS = {"dashboards": grafana, "console-dashboard": openshift, "consoles": prometheus}


def texts():
    """The text of every file, by its name from the root of the repository."""
    return {name: WRITERS[Path(name).parent.name].written(dashboard) for name, dashboard in DASHBOARDS.items()}


def write(root):
    """Writes all files anew."""
    for name, text in texts().items():
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def differences(root):
    """The names of the files that are not what the definitions say, or that nothing says."""
    wanted = texts()
    folders = {(Path(root) / name).parent for name in wanted}
    there = {str(path.relative_to(root)): path for folder in folders for path in folder.glob("*")
             if path.suffix in (".json", ".html")}
    return sorted(name for name in wanted.keys() | there.keys()
                  if name not in there or there[name].read_text(encoding="utf-8") != wanted.get(name))


def main(root, arguments):
    """scripts/dashboards: the exit code."""
    if arguments not in ([], ["--check"]):
        print("dashboards: %s is not known\nhint: scripts/dashboards [--check]" % " ".join(arguments), file=sys.stderr)
        return 2
    if not arguments:
        write(root)
        return 0
    stale = differences(root)
    for name in stale:
        print("dashboards: %s is not what scripts/lib/dashboards says" % name, file=sys.stderr)
    if stale:
        print("hint: scripts/dashboards writes all of them; delete a file that it does not write", file=sys.stderr)
    return 1 if stale else 0

"""What the written dashboards ask Prometheus: every query of every file, as Prometheus would get it.

Takes the files that `scripts/dashboards` wrote (not what they were made from), and gives `Query` tuples. For the lint,
and for tests that ask a real Prometheus.
"""
import html
import json
import re
from collections import namedtuple
from pathlib import Path

# Where they are, from the root of the repository.
GRAFANA = "manifests/components/grafana/dashboards/*.json"
OPENSHIFT = "manifests/components/console-dashboard/*.json"
PROMETHEUS = "manifests/consoles/*.html"

# What the variables of the dashboards stand for if nobody chooses.
VALUES = {
    "__rate_interval": "5m", "__interval": "1m", "__range": "1h", "namespace": ".*", "tenant": ".*",
    "datasource": "prometheus",
}

# `optional`: the panel is in a row that is for clusters with metrics of others (DCGM). `legend`: Grafana's format.
Query = namedtuple("Query", "file dashboard panel expression legend optional")


def queries(root, values=None):
    """Every query of every dashboard below a root. `values`: other values of variables, such as `__rate_interval`."""
    values = dict(VALUES, **(values or {}))
    for pattern, read in ((GRAFANA, of_json), (OPENSHIFT, of_json), (PROMETHEUS, of_page)):
        found = sorted(Path(root).glob(pattern))
        if not found:
            raise FileNotFoundError("%s: no such file\nhint: scripts/dashboards writes it" % pattern)
        for path in found:
            for query in read(path.read_text(encoding="utf-8"), values):
                yield query._replace(file=str(path.relative_to(root)))


def of_json(text, values):
    """The queries of a dashboard of Grafana or of OpenShift's console, those of its variables included."""
    dashboard = json.loads(text)
    title = dashboard["title"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            expression = substituted(label_values(variable), values)
            yield Query(None, title, "variable " + variable["name"], expression, "", False)
    for panel, row in panels(dashboard):
        for target in panel.get("targets") or []:
            yield Query(None, title, panel.get("title", ""), substituted(target["expr"], values),
                        target.get("legendFormat") or columns(panel), "optional" in row)


def panels(dashboard):
    """(panel, title of its row) for each panel that shows something, in either format."""
    row = ""
    for entry in dashboard.get("rows") or []:
        yield from ((panel, entry.get("title", "")) for panel in entry.get("panels") or [])
    for panel in dashboard.get("panels") or []:
        if panel.get("type") == "row":
            row = panel.get("title", "")
            yield from ((inner, row) for inner in panel.get("panels") or [])
        else:
            yield panel, row


def labels_of_legend(legend):
    """The labels whose values a legend shows."""
    return frozenset(re.findall(r"{{\s*(\w+)\s*}}", legend))


def columns(panel):
    """The labels that a table of OpenShift's console shows, as a legend. Grafana's shows all that there are."""
    return " ".join("{{%s}}" % style["pattern"] for style in panel.get("styles") or []
                    if not style["pattern"].startswith("Value"))


def label_values(variable):
    """`label_values(METRIC, LABEL)` as a query of Prometheus."""
    query = variable["query"]
    text = query["query"] if isinstance(query, dict) else query
    match = re.fullmatch(r"label_values\((.+),\s*(\w+)\)", text)
    if not match:
        raise ValueError("variable %s: %s is no label_values(metric, label)\nhint: write it like that"
                         % (variable["name"], text))
    return "group by (%s) (%s)" % (match.group(2), match.group(1))


def of_page(text, values):
    """The queries of a page of Prometheus' console templates."""
    title = html.unescape(re.search(r"<title>(.*?)</title>", text)[1])
    pattern = r'<section[^>]*data-title="([^"]*)"|<ul[^>]*data-legend="([^"]*)"|range query (?:\(printf )?`([^`]*)`'
    panel, legend = "variable namespace", ""
    for match in re.finditer(pattern, text):
        if match[1] is not None:
            panel = html.unescape(match[1])
        elif match[2] is not None:
            legend = re.sub(r"\[(\w+)\]", r"{{\1}}", html.unescape(match[2]))
        else:
            expression = match[3].replace("%[1]s", '"$namespace"').replace("%%", "%")
            yield Query(None, title, panel, substituted(expression, values), legend, False)


def substituted(expression, values):
    """The expression in which `$name`, `${name}` and `${name:format}` have their values."""
    def value(match):
        name = match[1] or match[2]
        if name not in values:
            raise ValueError("%s: nothing is known of $%s\nhint: a dashboard may use %s"
                             % (expression, name, ", ".join("$" + key for key in values)))
        return values[name]
    return re.sub(r"\$(?:([A-Za-z_]\w*)|\{(\w+)(?::\w+)?\})", value, expression)

"""Rules about dashboards: a figure that asks for what nobody exports stays empty, and nobody is told.

Each rule is about one dashboard, wherever it is: in a ConfigMap of an overlay, or in a file that no overlay contains
(that of OpenShift's console, the page of Prometheus), which `dashboard-file` holds against all of them.
"""
import json
from collections import Counter, namedtuple
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import promql_parser

from dashboards import read
from overlays import parse

from . import promql
from .core import Overlay, dig, fault, labels_of, rule, tree_rule
from .monitoring import MISLEADING, PLATFORM, Series, labels_of_metric, wrong_values
from .results import result_labels

Query = namedtuple("Query", "panel text expression legend optional")

KINDS = {"grafana_dashboard": "grafana", "console.openshift.io/dashboard": "console"}
TYPES = {
    "grafana": {"timeseries", "stat", "gauge", "table", "heatmap", "state-timeline"},
    # What the console leaves out without a word: everything else.
    "console": {"graph", "singlestat", "table"},
}
# In the place of variables, so that what was written out is told from what was a variable.
VALUES = dict(read.VALUES, __rate_interval="301s", __range="3607s", namespace="chosen")
RANGES = {timedelta(seconds=301), timedelta(seconds=3607)}
# A page of Prometheus has no variables for them.
PAGE_RANGES = {timedelta(minutes=5), timedelta(hours=1)}
# Of Prometheus itself: its own series about alerts.
ALERTS = {"ALERTS": promql.TARGET_LABELS | {"alertname", "alertstate", "severity", "upstream", "tenant"}}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# `kubectl apply` keeps a copy of an object in an annotation, and annotations end at 256 KiB.
LARGEST = 200_000
CHECKS = {}


@dataclass(frozen=True, eq=False)
class Dashboard:
    """What was read: its JSON (None of a page) and its queries, or an error. `kind`: grafana, console or page."""

    kind: str
    document: dict
    queries: list
    error: str
    size: int


def dashboard_rule(identifier):
    """Registers f(dashboard, project, known), which yields (path, what, hint); `known` is what rules record."""
    def register(function):
        def of_overlay(overlay, project):
            for thing, path, dashboard in of_config_maps(overlay.of("ConfigMap")):
                for place, what, hint in CHECKS[identifier](dashboard, project, recorded(overlay, project)):
                    yield fault(thing, "%s %s" % (path, place), what, hint)
        of_overlay.__doc__ = function.__doc__
        # Overlays have the same dashboards, which are large: each is looked at once.
        CHECKS[identifier] = lru_cache(maxsize=64)(lambda *about: list(function(*about)))
        return rule(identifier)(of_overlay)
    return register


@lru_cache(maxsize=1)
def recorded(overlay, project):
    """(name, labels) of what the rules of an overlay record."""
    series = Series(overlay, project)
    return frozenset((name, series.labels(name)) for name in series.recorded)


def of_config_maps(things):
    """(ConfigMap, path, dashboard) for each dashboard."""
    for thing in things:
        for kind in {KINDS[label] for label in labels_of(thing) if label in KINDS}:
            for name, text in dig(thing, "data", {}).items():
                yield thing, "data[%s]" % name, read_one(kind, text)


def of_files(root):
    """(name, dashboard) for each file that no overlay contains."""
    for kind, pattern in (("console", read.OPENSHIFT), ("page", read.PROMETHEUS)):
        for path in sorted(root.glob(pattern)):
            yield str(path.relative_to(root)), read_one(kind, path.read_text(encoding="utf-8"))


@lru_cache(maxsize=64)
def read_one(kind, text):
    """The dashboard that a text is; overlays have the same ones."""
    document, queries, error = None, [], None
    try:
        if kind != "page":
            document = json.loads(text)
        for found in (read.of_page if kind == "page" else read.of_json)(text, VALUES):
            try:
                expression = promql.parse(found.expression)
            except ValueError:
                expression = None
            queries.append(Query(found.panel, found.expression, expression, found.legend, found.optional))
    except (AttributeError, KeyError, TypeError, ValueError) as wrong:
        error = "%s: %s" % (type(wrong).__name__, str(wrong).replace("\n", " "))
    return Dashboard(kind, document, queries, error, len(text.encode()))


def parsed(dashboard):
    return [query for query in dashboard.queries if query.expression is not None]


def shown(dashboard):
    """The panels that show something."""
    return [panel for panel, _ in read.panels(dashboard.document)] if dashboard.document and not dashboard.error else []


@tree_rule("dashboard-file")
def dashboard_file(project):
    """Those for OpenShift's console and for Prometheus are in no overlay: they are held against the rules as files."""
    files = sorted((project.root / "manifests/components/monitoring").glob("*prometheusrule*.yaml"))
    rules = Overlay("rules", [thing for file in files for thing in parse(file.read_text(encoding="utf-8"), file)])
    known = recorded(rules, project)
    for name, dashboard in of_files(project.root):
        for identifier, check in CHECKS.items():
            for place, what, hint in check(dashboard, project, known):
                yield fault(name, place, "%s (%s)" % (what, identifier), hint)


@dashboard_rule("dashboard-json")
def dashboard_json(dashboard, project, known):
    """Who shows a dashboard that it cannot read, or cannot keep, shows nothing or an error."""
    if dashboard.error:
        yield "", "is not readable: %s" % dashboard.error, "scripts/dashboards writes it anew"
    if dashboard.size > LARGEST:
        yield "", "has %d bytes" % dashboard.size, "kubectl apply takes about %d: split it" % LARGEST
    if dashboard.kind == "page" or dashboard.error:
        return
    wanted = {"editable": False, "schemaVersion": 42} if dashboard.kind == "grafana" else {"editable": False}
    for key, value in wanted.items():
        if dashboard.document.get(key) != value:
            yield key, "is %r" % dashboard.document.get(key), "set it to %s" % json.dumps(value)
    for key in ("uid", "title", "description"):
        if not dashboard.document.get(key):
            yield key, "is missing", "links and people find the dashboard by it"


@dashboard_rule("dashboard-panel")
def dashboard_panel(dashboard, project, known):
    """A figure says what it is, in which unit, and what one should think of it."""
    panels = shown(dashboard)
    for key in ("id", "title"):
        for value, count in Counter(panel.get(key) for panel in panels).items():
            if count > 1 or not value:
                yield "panels", "%d panels have the %s %r" % (count, key, value), "each has one of its own"
    for panel in panels:
        name = "panel %r" % panel.get("title")
        if panel.get("type") not in TYPES[dashboard.kind]:
            yield name, "is a %s" % panel.get("type"), "known here: " + ", ".join(sorted(TYPES[dashboard.kind]))
        if not panel.get("description"):
            yield name, "has no description", "say what it shows, and what to think of it"
        if not unit(panel):
            yield name, "has no unit", "a plain number has the unit short"
        if not panel.get("targets"):
            yield name, "asks for nothing", "give it a target"


def unit(panel):
    """The unit of a panel of Grafana's or of the console's."""
    console = [panel.get("format")] + [axis.get("format") for axis in panel.get("yaxes") or []] + [
        style.get("unit") for style in panel.get("styles") or []]
    return dig(panel, "fieldConfig.defaults.unit") or next(filter(None, console), None)


@dashboard_rule("dashboard-datasource")
def dashboard_datasource(dashboard, project, known):
    """A dashboard that names a data source works where that one is, and nowhere else."""
    if dashboard.kind != "grafana" or dashboard.error:
        return
    first = (dig(dashboard.document, "templating.list", []) + [{}])[0]
    if (first.get("type"), first.get("query"), first.get("name")) != ("datasource", "prometheus", "datasource"):
        yield "templating.list[0]", "is not the data source", "the others ask it: it comes first"
    for panel in shown(dashboard):
        for source in [panel.get("datasource")] + [target.get("datasource") for target in panel.get("targets") or []]:
            if source != DATASOURCE:
                yield "panel %r" % panel.get("title"), "asks %s" % json.dumps(source), "ask " + json.dumps(DATASOURCE)


@dashboard_rule("dashboard-query")
def dashboard_query(dashboard, project, known):
    """A query that does not parse is an error in the place of a figure."""
    for query in dashboard.queries:
        if query.expression is None:
            yield "panel %r" % query.panel, "does not parse: %s" % query.text, "promtool check rules says where"


@dashboard_rule("dashboard-metric")
def dashboard_metric(dashboard, project, known):
    """A figure about a metric that nobody exports is empty."""
    names = {name for name, _ in known} | set(ALERTS)
    for query in parsed(dashboard):
        for name in sorted({str(selector.metric) for selector in promql.selectors(query.expression)}):
            place = "panel %r" % query.panel
            if name in MISLEADING:
                yield (place, "%s is an average since the last scrape by anybody" % name,
                       "divide the rates of the two counters that it is made of")
            elif PLATFORM.fullmatch(name):
                if not query.optional:
                    yield (place, "%s is of an exporter that a cluster may not have" % name,
                           "move the panel to a folded row whose title has the word optional")
            elif name not in names and labels_of_metric(project, name) is None:
                yield (place, "there is no metric %s" % name,
                       "docs/metrics.md has those of the gateway; a recorded one needs the component monitoring")


@dashboard_rule("dashboard-label")
def dashboard_label(dashboard, project, known):
    """A matcher, a grouping or a legend by a label that is not there selects nothing, or leaves a gap."""
    others = dict(known, **ALERTS)

    def labels_of_series(name):
        return others[name] if name in others else labels_of_metric(project, name)

    for query in parsed(dashboard):
        place = "panel %r" % query.panel
        wanted = [(selector.labels, {selector.metric}) for selector in promql.selectors(query.expression)]
        for labels, metrics in wanted + list(promql.groupings(query.expression)):
            there = [labels_of_series(str(name)) for name in metrics]
            if None not in there:
                for label in sorted(labels - frozenset().union(*there)):
                    yield (place, "%s has no label %s" % (" or ".join(sorted(map(str, metrics))), label),
                           "docs/metrics.md has the labels")
        kept = result_labels(query.expression, labels_of_series)
        for label in sorted(read.labels_of_legend(query.legend) - kept) if kept is not None else []:
            yield place, "nothing is left of the label %s, which is shown" % label, "keep it: by (%s)" % label


@dashboard_rule("dashboard-value")
def dashboard_value(dashboard, project, known):
    """A matcher of a value that a label never has selects nothing."""
    for query in parsed(dashboard):
        for what, hint in wrong_values(query.expression, project):
            yield "panel %r" % query.panel, what, hint


@dashboard_rule("dashboard-rate")
def dashboard_rate(dashboard, project, known):
    """With a fixed window, a plot of a week leaves out most of the data, and a slow scrape gives none at all."""
    allowed = PAGE_RANGES if dashboard.kind == "page" else RANGES
    for query in parsed(dashboard):
        for node in promql.nodes(query.expression):
            if isinstance(node, promql_parser.MatrixSelector) and node.range not in allowed:
                yield ("panel %r" % query.panel, "has a window of its own, %s" % node.range,
                       "use $__rate_interval, or $__range for all that is shown")


@dashboard_rule("dashboard-namespace")
def dashboard_namespace(dashboard, project, known):
    """Two gateways in a cluster, or a project of OpenShift in which one sees no other: only the chosen one counts."""
    for query in parsed(dashboard):
        if query.panel == "variable namespace":
            continue
        for node in promql.nodes(query.expression):
            if isinstance(node, promql_parser.VectorSelector) and not any(
                    "namespace" in matcher.name and matcher.value == VALUES["namespace"]
                    and matcher.op == promql_parser.MatchOp.Re for matcher in node.matchers.matchers):
                yield ("panel %r" % query.panel, "%s is asked for in all namespaces" % node.name,
                       'add namespace=~"$namespace"')

"""Rules about alerts and recorded series: who is told what, by which labels, and how it is known that it works."""
import re
from functools import lru_cache

import yaml

from . import promql
from .core import dig, fault, rule, tree_rule
from .monitoring import Series, parsed, rules
from .results import result_labels
from .tree import files

DOCUMENT = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/blob/main/(docs/[\w./-]+\.md)#([\w-]+)")
RECORDED = re.compile(r"[a-z][a-z0-9_]*:[a-z0-9_]+:[a-z0-9_]+")
# What has a new value with each request or client: one series each, for ever.
UNBOUNDED = {"request_id", "trace_id", "span_id", "prompt", "user", "client", "address", "remote_addr", "ip", "url",
             "path", "query", "time", "timestamp"}


@rule("alert-text")
def alert_text(overlay, project):
    """Who is woken up wants to know what is wrong and how bad it is."""
    for thing, path, entry in rules(overlay):
        if "alert" in entry:
            for key in ("summary", "description", "runbook_url"):
                if not dig(entry, "annotations." + key):
                    yield fault(thing, path, "has no annotation %s" % key, "add it")
            if dig(entry, "labels.severity") not in ("critical", "warning", "info"):
                yield fault(thing, path, "has no severity", "add the label: critical, warning or info")


@rule("alert-template")
def alert_template(overlay, project):
    """A text about a label that the alert does not have shows nothing in its place."""
    series = Series(overlay, project)
    for thing, path, entry in rules(overlay):
        labels = series.of_rule(entry) if "alert" in entry else None
        for key, text in (entry.get("annotations") or {}).items() if labels is not None else ():
            for label in sorted(set(re.findall(r"\$labels\.(\w+)", str(text))) - labels):
                yield fault(thing, "%s.annotations.%s" % (path, key), "the alert has no label %s" % label,
                            "keep it in the expression: by (namespace, %s)" % label)


@rule("runbook")
def runbook(overlay, project):
    """The link in an alert leads to a section about it."""
    for thing, path, entry in rules(overlay):
        url, own = dig(entry, "annotations.runbook_url"), str(entry.get("alert")).lower()
        match = DOCUMENT.fullmatch(str(url))
        if url and not (match and match.group(2) == own and own in (project.anchors(match.group(1)) or ())):
            yield fault(thing, path + ".annotations.runbook_url", "%s leads to no section about it" % url,
                        "write one, and name it: .../blob/main/docs/TROUBLESHOOTING.md#%s" % own)


@rule("namespace-label")
def namespace_label(overlay, project):
    """By its namespace an alert finds its receiver, and a series whom it is about."""
    series = Series(overlay, project)
    for thing, path, entry in rules(overlay):
        if "namespace" in (entry.get("labels") or {}):
            continue
        for expression in promql.alternatives(str(entry.get("expr"))):
            labels = result_labels(expression, series.labels)
            if labels is not None and "namespace" not in labels:
                yield fault(thing, path + ".expr", "loses the label namespace", "group by it: sum by (namespace) (...)")


@rule("label-bound")
def label_bound(overlay, project):
    """Each value of a label is a series of its own, and an alert with another value is another alert."""
    for thing, path, entry in rules(overlay):
        for label, value in (entry.get("labels") or {}).items():
            if "$value" in str(value):
                yield fault(thing, "%s.labels.%s" % (path, label), "changes with each value", "make it an annotation")
            elif label in UNBOUNDED:
                yield fault(thing, "%s.labels.%s" % (path, label), "has no bound", "make it an annotation")
    for thing, path, expression in parsed(overlay):
        for label in sorted(promql.made_labels(expression) & UNBOUNDED):
            yield fault(thing, path, "makes the label %s, which has no bound" % label, "leave it out")


@rule("recorded-name")
def recorded_name(overlay, project):
    """The name of a recorded series says that it is one, of what, and how it is made; there is one rule for it."""
    seen = set()
    for thing, path, entry in rules(overlay):
        name = entry.get("record")
        if name and not RECORDED.fullmatch(name):
            yield fault(thing, path + ".record", "%s is not like other recorded series" % name,
                        "name it llama_gateway:WHAT:OPERATION, with the window: llama_gateway:requests:rate5m")
        if name and name in seen:
            yield fault(thing, path + ".record", "%s is recorded twice" % name, "leave one out")
        seen.add(name)


@tree_rule("rule-test")
def rule_test(project):
    """An alert that was never seen firing may never fire, and one that was never seen silent may fire for ever."""
    for name, path in files(project, "components/*/*.yaml"):
        groups = [group for thing in yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
                  for group in dig(thing, "spec.groups", [])]
        if not groups:
            continue
        fires, silent, valued = _seen(path.parent / "tests")
        for entry in (entry for group in groups for entry in group["rules"]):
            alert = entry.get("alert")
            if alert and (alert, dig(entry, "labels.severity")) not in fires:
                yield fault(name, alert, "no test sees it fire as %s" % dig(entry, "labels.severity"),
                            "add one to tests/ beside it, with exp_labels and exp_annotations")
            if alert and alert not in silent:
                yield fault(name, alert, "no test sees it silent", "add one with exp_alerts: [] for what is like it")
            if "record" in entry and entry["record"] not in valued:
                yield fault(name, entry["record"], "no test sees a value of it", "add a promql_expr_test to tests/")


def _seen(folder):
    """What the tests of promtool see: alerts that fire with their severity, silent ones, and series with a value."""
    found = [_seen_in(path.read_text(encoding="utf-8")) for path in folder.glob("*.yaml")]
    return tuple(set().union(*(part[index] for part in found)) for index in range(3))


@lru_cache(maxsize=64)
def _seen_in(text):
    fires, silent, valued = set(), set(), set()
    for test in yaml.load(text, yaml.CSafeLoader)["tests"]:
        for case in test.get("alert_rule_test") or []:
            fires.update((case["alertname"], alert["exp_labels"]["severity"]) for alert in case["exp_alerts"])
            silent.update({case["alertname"]} if not case["exp_alerts"] else ())
        for case in test.get("promql_expr_test") or []:
            valued.update(re.findall(r"[\w:]+", case["expr"]) if case["exp_samples"] else ())
    return fires, silent, valued

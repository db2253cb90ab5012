"""Rules about ServiceMonitors and PrometheusRules."""
import re

from . import promql
from .core import SERVER, dig, fault, labels_of, matches, name_of, rule
from .project import Metric
from .storage import SECRETS

# Of llama-server's /metrics.
SERVER_METRICS = {
    "llamacpp:" + name: Metric(kind, frozenset(labels)) for kind, labels, names in (
        ("counter", (), "prompt_tokens_total prompt_tokens_cached_total prompt_seconds_total tokens_predicted_total "
                        "tokens_predicted_seconds_total n_decode_total n_tokens_max "
                        "spec_decode_num_draft_tokens_total spec_decode_num_accepted_tokens_total "
                        "spec_decode_num_drafts_total"),
        ("counter", ("position",), "spec_decode_num_accepted_tokens_per_pos_total"),
        ("gauge", (), "requests_processing requests_deferred n_busy_slots_per_decode"),
    ) for name in names.split()
}
# Averages since the last scrape by anybody: with two Prometheus, or beside the gateway, they mean nothing.
MISLEADING = {"llamacpp:prompt_tokens_seconds", "llamacpp:predicted_tokens_seconds"}
# Of Prometheus itself, and of the platform: the latter are not in the Prometheus of user projects.
EVERYWHERE = {"up"}
PLATFORM = re.compile(r"kube_\w+|kubelet_volume_\w+|DCGM_\w+")
LEAF = ("openshift.io/prometheus-rule-evaluation-scope", "leaf-prometheus")
DOCUMENT = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/blob/main/(docs/[\w./-]+\.md)#([\w-]+)")


def rules(overlay):
    """(object, path, rule) for each alert and recording rule."""
    for thing in overlay.of("PrometheusRule"):
        for group in dig(thing, "spec.groups", []):
            for entry in group.get("rules") or []:
                name = entry.get("alert") or entry.get("record")
                yield thing, "spec.groups[%s].rules[%s]" % (group.get("name"), name), entry


def parsed(overlay):
    """The same with the expression, for those that parse."""
    for thing, path, entry in rules(overlay):
        try:
            yield thing, path + ".expr", promql.parse(str(entry.get("expr")))
        except ValueError:
            continue


def labels_of_metric(project, name):
    """The labels of a series of the gateway or of llama-server; None for others."""
    if name in SERVER_METRICS:
        return SERVER_METRICS[name].labels | promql.TARGET_LABELS
    base = re.sub(r"_(bucket|sum|count)$", "", str(name))
    histogram = project.metrics.get(base)
    if base != name and histogram and histogram.kind == "histogram":
        return histogram.labels | promql.TARGET_LABELS | ({"le"} if name.endswith("_bucket") else set())
    plain = project.metrics.get(name)
    return plain.labels | promql.TARGET_LABELS if plain and plain.kind != "histogram" else None


@rule("promql")
def promql_parses(overlay, project):
    """The API server takes any text for an expression."""
    for thing, path, entry in rules(overlay):
        try:
            promql.parse(str(entry.get("expr")))
        except ValueError as error:
            yield fault(thing, path + ".expr", "does not parse: %s" % error, "promtool check rules says where")


@rule("metric-name")
def metric_name(overlay, project):
    """A rule about a metric that nobody exports never fires."""
    for thing, path, expression in parsed(overlay):
        for name in sorted({str(selector.metric) for selector in promql.selectors(expression)}):
            if name in MISLEADING:
                yield fault(thing, path, "%s is an average since the last scrape by anybody" % name,
                            "divide the rates of the two counters that it is made of")
            elif (labels_of_metric(project, name) is None and name not in EVERYWHERE
                  and not PLATFORM.fullmatch(name)):
                yield fault(thing, path, "there is no metric %s" % name,
                            "docs/metrics.md has those of the gateway; a histogram has _bucket, _sum and _count")


@rule("metric-label")
def metric_label(overlay, project):
    """A matcher or a grouping by a label that a metric does not have selects nothing, or loses everything else."""
    for thing, path, expression in parsed(overlay):
        wanted = [(selector.labels, {selector.metric}) for selector in promql.selectors(expression)]
        for labels, metrics in wanted + list(promql.groupings(expression)):
            known = [promql.TARGET_LABELS if name in EVERYWHERE else labels_of_metric(project, name)
                     for name in metrics]
            if None in known:
                continue  # of the platform, or told by metric-name
            for label in sorted(labels - frozenset().union(*known)):
                yield fault(thing, path, "%s has no label %s" % (" or ".join(sorted(metrics)), label),
                            "docs/metrics.md has the labels")


@rule("target-name")
def target_name(overlay, project):
    """An alert about a job or a namespace that is called otherwise never fires."""
    jobs = {name_of(service) for monitor in overlay.of("ServiceMonitor") for service in overlay.of("Service")
            if matches(dig(monitor, "spec.selector", {}), labels_of(service))}
    for thing, path, expression in parsed(overlay):
        for selector in promql.selectors(expression):
            for label, known in (("job", jobs), ("namespace", {overlay.namespace})):
                value = selector.exact.get(label)
                if value and value not in known and not PLATFORM.fullmatch(str(selector.metric)):
                    yield fault(thing, path, "there is no %s %s" % (label, value),
                                "use %s: a job is called like the Service that is scraped" % ", ".join(sorted(known)))


@rule("rule-scope")
def rule_scope(overlay, project):
    """The Prometheus of user projects has only their metrics; those of the platform are in Thanos Ruler."""
    for thing, path, expression in parsed(overlay):
        if labels_of(thing).get(LEAF[0]) != LEAF[1]:
            continue
        for selector in promql.selectors(expression):
            if PLATFORM.fullmatch(str(selector.metric)):
                yield fault(thing, path, "%s is not there in %s" % (selector.metric, LEAF[1]),
                            "move the rule into a PrometheusRule without the label %s" % LEAF[0])


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


@rule("runbook")
def runbook(overlay, project):
    """The link in an alert leads to a heading that exists."""
    for thing, path, entry in rules(overlay):
        url = dig(entry, "annotations.runbook_url")
        match = DOCUMENT.fullmatch(str(url))
        if url and not (match and match.group(2) in (project.anchors(match.group(1)) or ())):
            yield fault(thing, path + ".annotations.runbook_url", "%s leads nowhere" % url,
                        "name a heading: .../blob/main/docs/TROUBLESHOOTING.md#%s" % str(entry.get("alert")).lower())


@rule("monitor-file")
def monitor_file(overlay, project):
    """OpenShift ignores ServiceMonitors that name files of its Prometheus."""
    for monitor in overlay.of("ServiceMonitor"):
        for endpoint in dig(monitor, "spec.endpoints", []):
            paths = ("bearerTokenFile", "tlsConfig.caFile", "tlsConfig.certFile", "tlsConfig.keyFile")
            found = [path for path in paths if dig(endpoint, path) is not None]
            for key in found:
                yield fault(monitor, "spec.endpoints." + key, "names a file of Prometheus",
                            "use authorization.credentials with a Secret of this namespace")


@rule("monitor-key")
def monitor_key(overlay, project):
    """llama-server shows its metrics only to who has its key."""
    for monitor in overlay.of("ServiceMonitor"):
        for endpoint in dig(monitor, "spec.endpoints", []):
            secret = dig(endpoint, "authorization.credentials", {})
            if secret.get("name") and secret.get("key") not in SECRETS.get(secret["name"], ()):
                yield fault(monitor, "spec.endpoints.authorization", "there is no key %s in Secret %s"
                            % (secret.get("key"), secret["name"]), "use kimi-k2-upstream-key, key api-key")
            elif name_of(monitor) == SERVER and not secret:
                yield fault(monitor, "spec.endpoints.authorization", "is missing: /metrics needs the key",
                            "use kimi-k2-upstream-key, key api-key")

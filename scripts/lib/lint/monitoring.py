"""Rules about ServiceMonitors, and about the expressions of PrometheusRules."""
import re

from . import promql
from .core import SERVER, dig, fault, labels_of, matches, name_of, rule
from .project import Metric
from .results import result_labels
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
# Labels whose values are all in the text of their metric.
LISTED = {"by", "kind", "outcome", "period", "phase", "state"}


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


class Series:
    """The series that rules can use: of the gateway, of llama-server, and what the rules of the overlay record."""

    def __init__(self, overlay, project):
        self.project = project
        self.recorded = {}
        for _, _, entry in rules(overlay):
            if "record" in entry:
                self.recorded[entry["record"]] = entry
        self._labels = {}

    def known(self, name):
        return (name in self.recorded or name in EVERYWHERE or PLATFORM.fullmatch(name) is not None
                or labels_of_metric(self.project, name) is not None)

    def labels(self, name):
        """The labels that series of this name can have; None: not known."""
        if name in EVERYWHERE:
            return promql.TARGET_LABELS
        if name not in self.recorded:
            return labels_of_metric(self.project, name)
        if name not in self._labels:
            self._labels[name] = None  # while it is found out: a rule could use what it records itself
            self._labels[name] = self.of_rule(self.recorded[name])
        return self._labels[name]

    def of_rule(self, entry):
        """The labels of what a rule gives; None: not known."""
        try:
            found = result_labels(promql.parse(str(entry.get("expr"))), self.labels)
        except ValueError:
            return None
        return None if found is None else found | frozenset(entry.get("labels") or {})


def histogram_of(name):
    """The name of the histogram that a series belongs to, if it is of one."""
    return re.sub(r"_(bucket|sum|count)$", "", str(name))


def labels_of_metric(project, name):
    """The labels of a series of the gateway or of llama-server; None for others."""
    if name in SERVER_METRICS:
        return SERVER_METRICS[name].labels | promql.TARGET_LABELS
    histogram = project.metrics.get(histogram_of(name))
    if histogram_of(name) != name and histogram and histogram.kind == "histogram":
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
    """A rule about a metric that nobody exports or records never fires."""
    series = Series(overlay, project)
    for thing, path, expression in parsed(overlay):
        for name in sorted({str(selector.metric) for selector in promql.selectors(expression)}):
            if name in MISLEADING:
                yield fault(thing, path, "%s is an average since the last scrape by anybody" % name,
                            "divide the rates of the two counters that it is made of")
            elif not series.known(name):
                yield fault(thing, path, "there is no metric %s" % name,
                            "docs/metrics.md has those of the gateway; a histogram has _bucket, _sum and _count; "
                            "others are recorded by rules")


@rule("metric-label")
def metric_label(overlay, project):
    """A matcher or a grouping by a label that a metric does not have selects nothing, or loses everything else."""
    series = Series(overlay, project)
    for thing, path, expression in parsed(overlay):
        wanted = [(selector.labels, {selector.metric}) for selector in promql.selectors(expression)]
        for labels, metrics in wanted + list(promql.groupings(expression)):
            known = [series.labels(name) for name in metrics]
            if None in known:
                continue  # of the platform, or told by metric-name
            for label in sorted(labels - frozenset().union(*known)):
                yield fault(thing, path, "%s has no label %s" % (" or ".join(sorted(metrics)), label),
                            "docs/metrics.md has the labels; of a recorded series, its rule")


@rule("metric-value")
def metric_value(overlay, project):
    """A matcher of a value that a label never has selects nothing, and so does a bound of a histogram as text."""
    for thing, path, expression in parsed(overlay):
        for what, hint in wrong_values(expression, project):
            yield fault(thing, path, what, hint)


def wrong_values(expression, project):
    """(what, hint) for each value that a matcher looks for in vain."""
    for selector in promql.selectors(expression):
        name = histogram_of(selector.metric)
        for label, _, pattern in selector.matchers:
            values = [value.replace("[.]", ".") for value in pattern.split("|")]
            if label == "le" and name in project.buckets:
                yield from _bounds(name, values, project)
            known = _values(project, name, label)
            for value in values if known else ():
                if re.fullmatch(r"\w+", value) and value not in known:
                    yield ("%s never has %s %s" % (name, label, value),
                           "docs/metrics.md, or gateway/src/error.rs and gateway/src/ledger/entry.rs, have them")


def _bounds(name, values, project):
    """Prometheus 3 writes each bound with a point, earlier ones as it comes: 30 and 30.0 are two texts."""
    for value in values:
        if not re.fullmatch(r"\d+(\.\d+)?", value):
            continue  # +Inf, or a pattern for several
        if float(value) not in project.buckets[name]:
            yield "%s has no bucket up to %s" % (name, value), "gateway/src/metrics.rs has its buckets"
        elif {repr(float(value)), "%g" % float(value)} - set(values):
            yield "%s is written otherwise by other versions of Prometheus" % value, (
                'write both: le=~"%g|%s"' % (float(value), repr(float(value)).replace(".", "[.]")))


def _values(project, name, label):
    """The values that a label of a metric can have, where they are known: the texts of metrics list them."""
    metric = project.metrics.get(name)
    if metric and label in project.label_values and name != "llama_gateway_tokens_refused_total":
        return project.label_values[label]
    return set(re.findall(r"\w+", metric.meaning)) if metric and label in LISTED else None


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
    """The Prometheus of user projects has only their metrics; those of the platform are in Thanos Ruler, and so is what
    is recorded there."""
    elsewhere = {entry["record"] for thing, _, entry in rules(overlay)
                 if "record" in entry and labels_of(thing).get(LEAF[0]) != LEAF[1]}
    for thing, path, expression in parsed(overlay):
        if labels_of(thing).get(LEAF[0]) != LEAF[1]:
            continue
        for selector in promql.selectors(expression):
            if PLATFORM.fullmatch(str(selector.metric)) or str(selector.metric) in elsewhere:
                yield fault(thing, path, "%s is not there in %s" % (selector.metric, LEAF[1]),
                            "move the rule into a PrometheusRule without the label %s" % LEAF[0])


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

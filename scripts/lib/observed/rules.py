"""The rules of the manifests, and which metrics expressions use."""

from lint import promql


def groups(objects):
    """All rule groups of the rendered objects."""
    return [group for one in objects if one["kind"] == "PrometheusRule" for group in one["spec"]["groups"]]


def rules(groups_):
    return [rule for group in groups_ for rule in group["rules"]]


def alerts(groups_):
    """(name, severity) of each alert."""
    return [(rule["alert"], rule["labels"]["severity"]) for rule in rules(groups_) if "alert" in rule]


def recorded(groups_):
    """The names of what is recorded."""
    return [rule["record"] for rule in rules(groups_) if "record" in rule]


def metrics_of(expression):
    """The names of the metrics that an expression uses. One without a name could be about anything."""
    names = {str(selector.metric) for selector in promql.selectors(promql.parse(expression))}
    if "None" in names:
        raise ValueError(f"{expression}: a selector has no name\nhint: write the metric's name before the braces")
    return names

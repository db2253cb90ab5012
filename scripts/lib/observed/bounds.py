"""Which labels a series may have, and how many series a metric may have.

Takes docs/metrics.md, which is made from the gateway's registry, and what a test has configured.
"""

import re

# What the ServiceMonitors give every series.
TARGET = {"job", "instance", "namespace", "pod", "service", "endpoint", "container"}
# How many values a label has at most whose set is fixed in the gateway's code. The longest list, `reason`, is
# docs/TROUBLESHOOTING.md's, with those of tokens.
FIXED = {"surface": 10, "class": 3, "period": 2, "state": 5, "phase": 2, "by": 3, "outcome": 7, "limit": 5, "kind": 8,
         "ending": 40, "reason": 40, "le": 20}
_ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \| ([^|]*) \|", re.MULTILINE)


def documented(document):
    """By series name, the labels of the gateway's own that it has."""
    found = {}
    for name, kind, labels in _ROW.findall(document):
        own = set(re.findall(r"`(\w+)`", labels))
        if kind == "histogram":
            found |= {f"{name}_sum": own, f"{name}_count": own, f"{name}_bucket": own | {"le"}}
        else:
            found[name] = own
    return found


def faults(series, known, configured):
    """What is wrong with series (sets of labels). `configured` tells how many tenants and such there are."""
    by_name = {}
    for labels in series:
        by_name.setdefault(labels["__name__"], []).append(set(labels) - TARGET - {"__name__"})
    for name, found in sorted(by_name.items()):
        if name not in known:
            yield f"{name} is not in docs/metrics.md"
            continue
        yield from (f"{name} has the labels {sorted(labels)}, not {sorted(known[name])}"
                    for labels in found if not labels <= known[name])  # an empty label is none
        most = 1
        for label in known[name]:
            most *= (FIXED | configured)[label]
        if len(found) > most:
            yield f"{name} has {len(found)} series, more than {most}"

"""Durations of Prometheus, made shorter: a rule about hours can be seen to work in a minute.

Takes PromQL or the durations of rules; gives the same with every range, offset and `for` divided.
"""

import re

FACTOR = 60

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000,
                 "y": 31_536_000_000}
_DURATION = r"(?:[0-9]+(?:ms|[smhdwy]))+"
# What could look like a duration and is none stands before it: texts, comments and names. A name does not begin with a
# digit, and the colon of a subquery is no part of one.
_TOKEN = re.compile(
    r"""(?P<other>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`|\#[^\n]*"""
    r"|(?::(?=[A-Za-z_:])|[A-Za-z_])[\w:]*|0[xX][0-9a-fA-F]+)"
    rf"|(?P<duration>{_DURATION})(?![\w.])"
    r"|(?P<number>[0-9.][\w.]*)")


def scaled(text):
    """A duration divided, in milliseconds at least."""
    if not re.fullmatch(_DURATION + "|0", text):
        raise ValueError(f"{text} is no duration of Prometheus\nhint: write 90s, 5m or 1h30m")
    whole = sum(int(number) * _MILLISECONDS[unit] for number, unit in re.findall(r"([0-9]+)(ms|[smhdwy])", text))
    return f"{max(1, round(whole / FACTOR))}ms" if whole else "0s"


def scaled_expression(expression):
    """PromQL with every duration divided. Metrics, labels, texts and numbers stay as they are."""
    return _TOKEN.sub(lambda match: scaled(match["duration"]) if match["duration"] else match[0], expression)


def scaled_groups(groups):
    """Rule groups with every duration divided; none is evaluated more often than every second."""
    return [{"name": group["name"], "interval": "1s", "rules": [_scaled_rule(rule) for rule in group["rules"]]}
            for group in groups]


def _scaled_rule(rule):
    times = {key: scaled(rule[key]) for key in ("for", "keep_firing_for") if key in rule}
    return rule | {"expr": scaled_expression(rule["expr"])} | times

"""Reads PromQL: which metrics an expression uses, and which labels it expects of them."""
from collections import namedtuple
from functools import lru_cache

import promql_parser as promql

# Labels that Prometheus gives every series.
TARGET_LABELS = frozenset({"job", "instance", "namespace", "pod", "service", "endpoint", "container"})

Selector = namedtuple("Selector", "metric labels exact matchers")


@lru_cache(maxsize=4096)
def parse(text):
    """The expression; ValueError says where it is wrong. Many rules look at the same ones."""
    return promql.parse(text)


def nodes(expression):
    """All parts of an expression."""
    found = []
    promql.walk(expression, lambda node: found.append(node))
    return found


def selectors(expression):
    """Each selector's metric, the labels that it matches, and those values that it wants exactly."""
    for node in nodes(expression):
        vector = node.vector_selector if isinstance(node, promql.MatrixSelector) else node
        if isinstance(vector, promql.VectorSelector):
            matchers = vector.matchers.matchers + [inner for group in vector.matchers.or_matchers for inner in group]
            names = [matcher.value for matcher in matchers if matcher.name == "__name__"]
            labels = {matcher.name for matcher in matchers if matcher.name != "__name__"}
            exact = {matcher.name: matcher.value for matcher in matchers if matcher.op == promql.MatchOp.Equal}
            plain = [(matcher.name, matcher.op, matcher.value) for matcher in matchers]
            yield Selector(vector.name or (names + [None])[0], labels, exact, plain)


def groupings(expression):
    """(labels of a by, without, on, ignoring or group_left, the metrics whose labels they can be) for each."""
    for node in nodes(expression):
        labels = set()
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            labels.update(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier:
            if node.modifier.matching:
                labels.update(node.modifier.matching.labels)
            labels.update(node.modifier.group_labels or [])
        if labels and not any(isinstance(inner, promql.Call) and inner.func.name in ("label_replace", "label_join")
                              for inner in nodes(node)):
            yield labels, {selector.metric for selector in selectors(node)}


def alternatives(text):
    """The parts of an expression of which an `or` takes one; none if it does not parse."""
    try:
        pending = [parse(text)]
    except ValueError:
        return
    while pending:
        expression = pending.pop()
        if isinstance(expression, promql.ParenExpr):
            pending.append(expression.expr)
        elif isinstance(expression, promql.BinaryExpr) and str(expression.op) == "or":
            pending += [expression.lhs, expression.rhs]
        else:
            yield expression


def made_labels(expression):
    """The labels that an expression makes itself."""
    found = set()
    for node in nodes(expression):
        if isinstance(node, promql.Call) and node.func.name in ("label_replace", "label_join"):
            found.add(node.args[1].val)
        elif isinstance(node, promql.AggregateExpr) and str(node.op) == "count_values":
            found.add(node.param.val)
    return found

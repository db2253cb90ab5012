"""Reads PromQL: which metrics an expression uses, and which labels it expects of them."""
from collections import namedtuple

import promql_parser as promql

# Labels that Prometheus gives every series.
TARGET_LABELS = frozenset({"job", "instance", "namespace", "pod", "service", "endpoint", "container"})

Selector = namedtuple("Selector", "metric labels exact matchers")


def parse(text):
    """The expression; ValueError says where it is wrong."""
    return promql.parse(text)


def _nodes(expression):
    found = []
    promql.walk(expression, lambda node: found.append(node))
    return found


def selectors(expression):
    """Each selector's metric, the labels that it matches, and those values that it wants exactly."""
    for node in _nodes(expression):
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
    for node in _nodes(expression):
        labels = set()
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            labels.update(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier:
            if node.modifier.matching:
                labels.update(node.modifier.matching.labels)
            labels.update(node.modifier.group_labels or [])
        if labels and not any(isinstance(inner, promql.Call) and inner.func.name in ("label_replace", "label_join")
                              for inner in _nodes(node)):
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
    for node in _nodes(expression):
        if isinstance(node, promql.Call) and node.func.name in ("label_replace", "label_join"):
            found.add(node.args[1].val)
        elif isinstance(node, promql.AggregateExpr) and str(node.op) == "count_values":
            found.add(node.param.val)
    return found


def result_labels(expression, of_metric):
    """The labels that the series of a result can have, where `of_metric` knows those of a metric; None: not known."""
    if isinstance(expression, promql.VectorSelector):
        return of_metric(next(selectors(expression)).metric)
    if isinstance(expression, promql.MatrixSelector):
        return result_labels(expression.vector_selector, of_metric)
    if isinstance(expression, (promql.ParenExpr, promql.UnaryExpr, promql.SubqueryExpr)):
        return result_labels(expression.expr, of_metric)
    if isinstance(expression, promql.AggregateExpr):
        return _of_aggregation(expression, result_labels(expression.expr, of_metric))
    if isinstance(expression, promql.Call):
        return _of_call(expression, of_metric)
    if isinstance(expression, promql.BinaryExpr):
        return _of_operation(expression, of_metric)
    return frozenset()


def _of_aggregation(expression, inner):
    if str(expression.op) in ("topk", "bottomk", "limitk", "limit_ratio"):
        return inner
    if str(expression.op) == "count_values":
        return None  # it makes a label of its own
    if not expression.modifier:
        return frozenset()
    named = frozenset(expression.modifier.labels)
    if expression.modifier.type == promql.AggModifierType.By:
        return named
    return None if inner is None else inner - named


def _of_call(call, of_metric):
    if call.func.name in ("label_replace", "label_join"):
        return None
    if call.func.name in ("absent", "absent_over_time"):
        return frozenset(next(selectors(call)).exact)
    if not any(True for _ in selectors(call)) or call.func.name in ("scalar", "vector"):
        return frozenset()
    inner = next(result_labels(argument, of_metric) for argument in call.args if any(True for _ in selectors(argument)))
    return inner - {"le"} if inner and call.func.name == "histogram_quantile" else inner


def _of_operation(expression, of_metric):
    sides = [side for side in (expression.lhs, expression.rhs) if any(True for _ in selectors(side))]
    labels = [result_labels(side, of_metric) for side in sides]
    operator, modifier = str(expression.op), expression.modifier
    if len(labels) < 2 or operator in ("and", "unless"):
        return labels[0] if labels else frozenset()
    if None in labels:
        return None
    if operator == "or":
        return labels[0] | labels[1]
    one_to_one = not modifier or modifier.card == promql.VectorMatchCardinality.OneToOne
    if one_to_one and modifier and modifier.matching:
        named = frozenset(modifier.matching.labels)
        return named if modifier.matching.type == promql.LabelModifierType.Include else labels[0] - named
    many = labels[1] if modifier and modifier.card == promql.VectorMatchCardinality.OneToMany else labels[0]
    return many | frozenset((modifier and modifier.group_labels) or [])

"""Which labels the result of a PromQL expression has: what a legend can show, and what a rule records."""
import promql_parser as parser

from . import promql


def result_labels(expression, of_metric):
    """The labels that the series of a result can have, where `of_metric` knows those of a metric; None: not known."""
    if isinstance(expression, parser.VectorSelector):
        return of_metric(next(promql.selectors(expression)).metric)
    if isinstance(expression, parser.MatrixSelector):
        return result_labels(expression.vector_selector, of_metric)
    if isinstance(expression, (parser.ParenExpr, parser.UnaryExpr, parser.SubqueryExpr)):
        return result_labels(expression.expr, of_metric)
    if isinstance(expression, parser.AggregateExpr):
        return _of_aggregation(expression, result_labels(expression.expr, of_metric))
    if isinstance(expression, parser.Call):
        return _of_call(expression, of_metric)
    if isinstance(expression, parser.BinaryExpr):
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
    if expression.modifier.type == parser.AggModifierType.By:
        return named
    return None if inner is None else inner - named


def _of_call(call, of_metric):
    if call.func.name in ("label_replace", "label_join"):
        return None
    if call.func.name in ("absent", "absent_over_time"):
        return frozenset(next(promql.selectors(call)).exact)
    series = [argument for argument in call.args if _is_of_series(argument)]
    if not series or call.func.name in ("scalar", "vector"):
        return frozenset()
    inner = result_labels(series[0], of_metric)
    return inner - {"le"} if inner and call.func.name == "histogram_quantile" else inner


def _is_of_series(expression):
    """Whether it is made of series, not of numbers alone."""
    if isinstance(expression, parser.BinaryExpr):
        return _is_of_series(expression.lhs) or _is_of_series(expression.rhs)
    if isinstance(expression, parser.Call):
        return any(_is_of_series(argument) for argument in expression.args)
    if isinstance(expression, (parser.ParenExpr, parser.UnaryExpr)):
        return _is_of_series(expression.expr)
    return not isinstance(expression, (parser.NumberLiteral, parser.StringLiteral))


def _of_operation(expression, of_metric):
    sides = [side for side in (expression.lhs, expression.rhs) if _is_of_series(side)]
    labels = [result_labels(side, of_metric) for side in sides]
    operator, modifier = str(expression.op), expression.modifier
    if len(labels) < 2 or operator in ("and", "unless"):
        return labels[0] if labels else frozenset()
    if None in labels:
        return None
    if operator == "or":
        return labels[0] | labels[1]
    one_to_one = not modifier or modifier.card == parser.VectorMatchCardinality.OneToOne
    if one_to_one and modifier and modifier.matching:
        named = frozenset(modifier.matching.labels)
        return named if modifier.matching.type == parser.LabelModifierType.Include else labels[0] - named
    many = labels[1] if modifier and modifier.card == parser.VectorMatchCardinality.OneToMany else labels[0]
    return many | frozenset((modifier and modifier.group_labels) or [])

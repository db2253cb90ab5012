"""Which labels the result of a PromQL expression has: what a legend can show."""
import promql_parser as promql


def result_labels(node, labels_of_metric):
    """The labels; None where that is not known. `labels_of_metric(name)` gives those of a series, None for others."""
    def of(inner):
        return result_labels(inner, labels_of_metric)

    if isinstance(node, promql.VectorSelector):
        return labels_of_metric(str(node.name))
    if isinstance(node, promql.MatrixSelector):
        return of(node.vector_selector)
    if isinstance(node, (promql.ParenExpr, promql.UnaryExpr, promql.SubqueryExpr)):
        return of(node.expr)
    if isinstance(node, promql.AggregateExpr):
        return _of_aggregation(node, of)
    if isinstance(node, promql.BinaryExpr):
        return _of_operation(node, of)
    if isinstance(node, promql.Call):
        if node.func.name in ("label_replace", "label_join", "absent"):
            return None
        found = of(node.args[-1]) if node.args else frozenset()
        return found - {"le"} if found and node.func.name == "histogram_quantile" else found
    return frozenset()  # a number


def _of_aggregation(node, of):
    if str(node.op) in ("topk", "bottomk"):
        return of(node.expr)
    if not node.modifier:
        return frozenset()
    if node.modifier.type == promql.AggModifierType.By:
        return frozenset(node.modifier.labels)
    found = of(node.expr)
    return None if found is None else found - set(node.modifier.labels)


def _of_operation(node, of):
    left, right = of(node.lhs), of(node.rhs)
    if str(node.op) == "or":
        return None if None in (left, right) else left | right
    if not left and left is not None:
        # A number, or what has no labels: then both sides have none, or the other is the series.
        return right
    modifier = node.modifier
    if modifier and modifier.card == promql.VectorMatchCardinality.ManyToOne:
        return None if left is None else left | set(modifier.group_labels or ())
    if modifier and modifier.matching and str(node.op) not in ("and", "unless"):
        if modifier.matching.type == promql.LabelModifierType.Include:
            return frozenset(modifier.matching.labels)
        return None if left is None else left - set(modifier.matching.labels)
    return left

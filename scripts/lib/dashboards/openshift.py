"""Writes a dashboard for OpenShift's console, which reads the format of Grafana 5: rows of graphs, numbers and tables.

Its code (openshift/monitoring-plugin, features/legacy-dashboards) leaves out panels of other types without a word,
replaces `$name` and no `${name}`, reads the first file of a ConfigMap only, and knows few units.
"""
import json

from .grafana import letter

TYPES = {"timeseries": "graph", "stat": "singlestat", "gauge": "singlestat", "table": "table"}
UNITS = {"reqps": "short", "short": "short", "s": "s", "percentunit": "percentunit"}


def written(dashboard):
    """The text of the file."""
    variables = [variable("namespace", "label_values(llama_gateway_build_info, namespace)")]
    if dashboard.by_tenant:
        variables.append(variable("tenant", 'label_values(llama_gateway_queue_tickets_total'
                                            '{namespace=~"$namespace"}, tenant)'))
    rows, last = [], 0
    for row in dashboard.rows:
        rows.append({"title": row.title, "showTitle": True, "collapse": row.folded, "panels": [
            written_panel(panel, last + number) for number, panel in enumerate(row.panels, 1)]})
        last += len(row.panels)
    return json.dumps({
        "uid": "llama-gateway-console", "title": dashboard.title, "description": dashboard.description,
        "tags": ["llama-gateway"], "schemaVersion": 16, "editable": False, "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"}, "templating": {"list": variables}, "rows": rows,
    }, indent=1, ensure_ascii=False) + "\n"


def variable(name, query):
    """All are chosen at first; in a project's view the console itself puts the project's name in."""
    return {"name": name, "type": "query", "query": query, "includeAll": True, "hide": 0, "options": [], "refresh": 2}


def written_panel(panel, identifier):
    kind, unit = TYPES[panel.kind], UNITS[panel.unit]
    found = {
        "id": identifier, "type": kind, "title": panel.title, "description": panel.description,
        "span": panel.width // 2,
        "targets": [{"refId": letter(index), "expr": target.expression,
                     **({} if kind == "table" else {"legendFormat": target.legend})}
                    for index, target in enumerate(panel.targets)],
    }
    if kind == "graph":
        found.update(stack=panel.stacked, legend={"show": True}, yaxes=[{"format": unit}, {"format": unit}])
    elif kind == "singlestat":
        found.update(format=unit, decimals=1, valueMaps=[{"op": "=", "value": "null", "text": "-"}])
    else:
        found.update(transform="table", styles=[
            {"pattern": label, "alias": label.capitalize(), "type": "string"} for label in panel.columns] + [
            {"pattern": "Value #" + letter(index), "alias": target.legend, "type": "number", "unit": unit,
             "decimals": 0} for index, target in enumerate(panel.targets)])
    return found

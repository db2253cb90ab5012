"""Writes a dashboard for Grafana: its JSON of schema version 42, which Grafana 12 writes; newer ones read it too."""
import itertools
import json

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# How often Prometheus reads the two (manifests/components/monitoring): `$__rate_interval` is at least four times that.
GATEWAY_INTERVAL, SERVER_INTERVAL = "30s", "1m"
COLUMNS = 24


def written(dashboard):
    """The text of the file."""
    return json.dumps({
        "uid": "llama-gateway-" + dashboard.name,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["llama-gateway"],
        "schemaVersion": 42,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "title": "llama-gateway", "tags": ["llama-gateway"], "asDropdown": False,
                   "includeVars": True, "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "",
                   "url": ""}],
        "templating": {"list": variables(dashboard)},
        "panels": panels(dashboard),
    }, indent=1, ensure_ascii=False) + "\n"


def variables(dashboard):
    """The source comes first: the others ask it."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1,
              "regex": "", "hide": 0, "includeAll": False, "multi": False}
    chosen = [choice("namespace", "Namespace", "label_values(llama_gateway_build_info, namespace)")]
    if dashboard.by_tenant:
        chosen.append(choice("tenant", "Tenant", 'label_values(llama_gateway_queue_tickets_total'
                             '{namespace=~"$namespace"}, tenant)'))
    return [source] + chosen


def choice(name, label, query):
    """A variable of which all values are chosen at first; also of series that have no such label."""
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE,
            "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "regex": "", "hide": 0, "multi": False,
            "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}


def panels(dashboard):
    """Rows and their panels, from top to bottom. Of a folded row, the panels stand in the row."""
    found, y, identifiers = [], 0, itertools.count(1)
    for row in dashboard.rows:
        head = {"id": next(identifiers), "type": "row", "title": row.title, "collapsed": row.folded,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}, "panels": []}
        found.append(head)
        places, y = placed(row.panels, y + 1)
        inner = [written_panel(panel, next(identifiers), place) for panel, place in places]
        (head["panels"] if row.folded else found).extend(inner)
    return found


def placed(row, y):
    """(panel, place) of each panel, side by side as long as the width lasts; and where the next row begins."""
    places, x, height = [], 0, 0
    for panel in row:
        if x + panel.width > COLUMNS:
            x, y, height = 0, y + height, 0
        places.append((panel, {"x": x, "y": y, "w": panel.width, "h": panel.height}))
        x, height = x + panel.width, max(height, panel.height)
    return places, y + height


def written_panel(panel, identifier, place):
    defaults = {"unit": panel.unit, "custom": drawing(panel),
                "color": {"mode": "thresholds" if panel.thresholds else "palette-classic"},
                "thresholds": {"mode": "absolute", "steps": [
                    {"value": value, "color": color} for value, color in panel.thresholds or ((None, "green"),)]}}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.kind == "gauge":
        defaults["min"] = 0
    if panel.kind == "state-timeline":
        defaults["mappings"] = [{"type": "value", "options": {"1": {"text": "yes", "index": 0}}}]
    whole = {
        "id": identifier, "type": panel.kind, "title": panel.title, "description": panel.description,
        "datasource": DATASOURCE, "gridPos": place,
        "targets": [target(panel, index) for index in range(len(panel.targets))],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options(panel),
    }
    if panel.kind == "table":
        names = {"Value #" + letter(index): one.legend for index, one in enumerate(panel.targets)}
        # With a single query the column has no letter.
        names.update({"Value": panel.targets[0].legend} if len(panel.targets) == 1 else {})
        whole["transformations"] = [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": names}}]
    return whole


def letter(index):
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index]


def target(panel, index):
    """A query: at one moment where the panel shows one value, else over time."""
    one = panel.targets[index]
    at_once = panel.kind in ("table", "stat", "gauge")
    found = {"refId": letter(index), "datasource": DATASOURCE, "editorMode": "code", "expr": one.expression,
             "legendFormat": "" if panel.kind == "table" else one.legend,
             "interval": SERVER_INTERVAL if "llamacpp:" in one.expression else GATEWAY_INTERVAL,
             "instant": at_once, "range": not at_once}
    if panel.kind in ("table", "heatmap"):
        found["format"] = panel.kind
    return found


def drawing(panel):
    """How lines are drawn."""
    if panel.kind != "timeseries":
        return {}
    return {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 25 if panel.stacked else 0, "showPoints": "never",
            "spanNulls": False, "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"}}


def options(panel):
    reduced = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "orientation": "auto"}
    return {
        "timeseries": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
                       "tooltip": {"mode": "multi", "sort": "desc"}},
        "stat": dict(reduced, colorMode="value", graphMode="none", justifyMode="auto", textMode="auto"),
        "gauge": dict(reduced, showThresholdLabels=False, showThresholdMarkers=True),
        "table": {"showHeader": True, "cellHeight": "sm"},
        "heatmap": {"calculate": False, "yAxis": {"unit": panel.unit}, "cellGap": 1,
                    "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                    "tooltip": {"mode": "single"}, "legend": {"show": True}},
        "state-timeline": {"showValue": "never", "mergeValues": True, "rowHeight": 0.9,
                           "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
                           "tooltip": {"mode": "single"}},
    }[panel.kind]

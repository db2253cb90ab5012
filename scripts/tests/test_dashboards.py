"""The dashboards: the files are what the definitions say, and a real Prometheus answers every query in them.

The series are made up here, with the names of docs/metrics.md and two of each label, from two gateways in two
namespaces: this proves the queries, not that a gateway has these series (test_observed.py has a real one).
"""
import html
import io
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request
from contextlib import redirect_stderr
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import promql_parser
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/lib"))

import manifests  # noqa: E402
import overlays  # noqa: E402
from dashboards import files, prometheus, read  # noqa: E402
from dashboards.model import Panel, Target  # noqa: E402
from dashboards.service import FAULTS  # noqa: E402
from lint.monitoring import SERVER_METRICS  # noqa: E402
from lint.project import Project  # noqa: E402

NAMESPACES = ("llm-models-llamacpp", "other")
HOSTILE = "<script>document.title='taken'</script>"
VALUES = {
    "tenant": ("acme", HOSTILE), "class": ("standard", "batch"), "kind": ("prompt", "cached", "completion", "computed"),
    "ending": ("complete", "internal_error"), "reason": ("queue_full", "invalid_api_key"),
    "phase": ("prefill", "decode"), "outcome": ("dispatched", "full"), "period": ("day", "month"),
    "state": ("ready", "down"),
    "le": ("0.1", "1", "+Inf"), "alertname": ("LlamaGatewayDown",), "alertstate": ("firing",),
}


def wait_for(what, condition, seconds=30):
    """Asks until the answer is one; fails when that takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("%s: not within %d s" % (what, seconds))


class Exporter(ThreadingHTTPServer):
    """Serves every metric that there is; each reading finds higher counters."""

    def __init__(self):
        readings = itertools.count(1)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(exposition(next(readings)).encode())

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def exposition(reading):
    """All series as text. What grows does so by 10 a reading."""
    lines = []
    for name, metric in {**Project(ROOT).metrics, **SERVER_METRICS, **OTHERS}.items():
        labels = sorted(metric.labels)
        kinds = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        for suffix in kinds:
            wanted = labels + (["le"] if suffix == "_bucket" else [])
            for values in itertools.product(*(VALUES.get(label, ("a", "b")) for label in wanted)):
                text = ",".join('%s="%s"' % pair for pair in zip(wanted, values))
                grows = metric.kind in ("counter", "histogram")
                value = reading * 10 if grows else 1 if name.endswith("state") else 0.5
                value += time.time() if "timestamp" in name else 0
                lines.append("%s%s{%s} %s" % (name, suffix, text, value))
    return "\n".join(lines) + "\n"


def _others():
    """What rules record, what other exporters have, and Prometheus' series about alerts."""
    found = {"ALERTS": ("gauge", ("alertname", "alertstate", "severity"))}
    for query in read.queries(ROOT):
        for name in re.findall(r"llama_gateway:[\w:]+|DCGM_\w+", query.expression):
            found[name] = ("gauge", ("Hostname", "gpu") if name.startswith("DCGM") else ())
    metric = type(next(iter(SERVER_METRICS.values())))
    return {name: metric(kind, frozenset(labels)) for name, (kind, labels) in found.items()}


OTHERS = _others()


class Prometheus:
    """A real one that reads two exporters once a second, in two namespaces, and has our page."""

    def __init__(self, folder, targets):
        configuration = {"global": {"scrape_interval": "1s"}, "scrape_configs": [{
            "job_name": "kimi-k2-gateway", "static_configs": [
                {"targets": [target], "labels": {"namespace": namespace, "pod": namespace}}
                for target, namespace in zip(targets, NAMESPACES)]}]}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = "http://127.0.0.1:%d" % free.getsockname()[1]
        self.log = open(folder / "log", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            ["prometheus", "--config.file=%s" % (folder / "prometheus.yaml"),
             "--storage.tsdb.path=%s" % (folder / "data"), "--web.listen-address=" + self.url[7:],
             "--web.console.templates=%s" % (ROOT / "manifests/consoles"),
             "--web.console.libraries=%s" % (folder / "none")], stdout=self.log, stderr=subprocess.STDOUT)

    def get(self, path, **parameters):
        """(status, text)."""
        try:
            with urllib.request.urlopen(self.url + path + "?" + urllib.parse.urlencode(parameters)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def query(self, expression):
        """The result, or the text of the error."""
        status, text = self.get("/api/v1/query", query=expression)
        return json.loads(text)["data"]["result"] if status == 200 else text

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


class WithPrometheus(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        exporters = [Exporter(), Exporter()]
        for exporter in exporters:
            cls.addClassCleanup(exporter.server_close)
            cls.addClassCleanup(exporter.shutdown)
        cls.folder = Path(folder.name)
        cls.prometheus = Prometheus(cls.folder, ["127.0.0.1:%d" % exporter.server_port for exporter in exporters])
        cls.addClassCleanup(cls.prometheus.stop)
        ready = 'count(rate(llama_gateway_panics_total[1m])) == 2'
        wait_for("both exporters are read twice", lambda: cls.prometheus.get("/-/ready")[0] == 200
                 and cls.prometheus.query(ready))

    def test_answers_every_query_of_every_file(self):
        for namespace in (".*", NAMESPACES[0]):
            for query in read.queries(ROOT, {"namespace": namespace}):
                with self.subTest(file=query.file, panel=query.panel, namespace=namespace):
                    found = self.prometheus.query(query.expression)
                    self.assertIsInstance(found, list, found)
                    self.assertTrue(found, query.expression)
                    self.assertFalse([one for one in found if one.get("value", [0, "NaN"])[1] == "NaN"], query)

    def test_a_chosen_namespace_is_the_only_one_that_is_shown(self):
        query = next(query for query in read.queries(ROOT, {"namespace": "other"}) if query.panel == "Running versions")
        self.assertEqual({"other"}, {one["metric"]["namespace"] for one in self.prometheus.query(query.expression)})

    def test_legends_name_labels_that_results_have(self):
        for query in read.queries(ROOT):
            with self.subTest(panel=query.panel):
                for one in self.prometheus.query(query.expression):
                    self.assertLessEqual(read.labels_of_legend(query.legend), set(one["metric"]))

    def test_renders_the_page_with_a_value_for_each_query(self):
        status, page = self.prometheus.get("/consoles/llama-gateway.html")
        self.assertEqual(200, status, page)
        queries = [query for query in read.queries(ROOT) if query.file.endswith(".html") and " " in query.panel]
        lists = re.findall(r'<ul data-legend="[^"]*" data-query="([^"]*)">(.*?)</ul>', page, re.DOTALL)
        self.assertGreater(len(lists), 30)
        self.assertLessEqual({query.expression for query in queries} - {
            html.unescape(expression) for expression, _ in lists}, {"group by (namespace) (llama_gateway_build_info)"})
        for expression, values in lists:
            self.assertRegex(values, r"<li data-name=.*<b>.+</b></li>", expression)
        self.assertNotIn("no data", page)
        for namespace in NAMESPACES:
            self.assertIn('<a href="?namespace=%s">%s</a>' % (namespace, namespace), page)

    def test_the_page_of_a_namespace_without_a_gateway_has_no_data_and_no_error(self):
        status, page = self.prometheus.get("/consoles/llama-gateway.html", namespace='x"} or vector(1) or {a=~"y')
        self.assertEqual((200, 0), (status, page.count("<b>")))
        self.assertIn("<li>no data</li>", page)

    def test_a_browser_draws_every_plot_and_runs_nothing_of_a_tenants_name(self):
        self.assertIn(html.escape(HOSTILE, quote=False).replace("'", "&#39;"),
                      self.prometheus.get("/consoles/llama-gateway.html")[1])
        done = subprocess.run(
            [os.environ.get("CHROMIUM", "chromium"), "--headless", "--no-sandbox", "--disable-gpu",
             "--user-data-dir=%s" % (self.folder / "chromium"), "--virtual-time-budget=20000", "--dump-dom",
             self.prometheus.url + "/consoles/llama-gateway.html"],
            capture_output=True, text=True, timeout=120, check=True)
        self.assertIn('data-drawn="yes"', done.stdout, done.stderr)
        sections = re.findall(r"<section.*?</section>", done.stdout, re.DOTALL)
        self.assertEqual(sections, [section for section in sections if "<polyline points=\"" in section])
        self.assertIn("<title>llama-gateway</title>", done.stdout)


class Files(unittest.TestCase):
    def run_it(self, root, *arguments):
        told = io.StringIO()
        with redirect_stderr(told):
            return files.main(root, list(arguments)), told.getvalue()

    def test_are_what_the_definitions_say(self):
        command = [str(ROOT / "scripts/dashboards"), "--check"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual((0, ""), (done.returncode, done.stderr))

    def test_that_are_stale_missing_or_nobodys_are_told(self):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            self.assertEqual((0, ""), self.run_it(root))
            self.assertEqual((0, ""), self.run_it(root, "--check"))
            place = root / "manifests/components/grafana/dashboards"
            (place / "service.json").write_text("{}")
            (place / "tenants.json").unlink()
            (place / "old.json").write_text("{}")
            code, told = self.run_it(root, "--check")
        self.assertEqual(1, code)
        self.assertEqual(["old.json", "service.json", "tenants.json"],
                         re.findall(r"dashboards/(\S+) is not what", told))
        self.assertIn("hint: scripts/dashboards writes", told)

    def test_another_argument_is_refused(self):
        code, told = self.run_it(ROOT, "--write")
        self.assertEqual(2, code)
        self.assertIn("--write is not known\nhint: ", told)


class Reading(unittest.TestCase):
    def test_has_every_query_that_was_defined(self):
        for dashboard, name in ((dashboard, name) for name, dashboard in files.DASHBOARDS.items()):
            found = [query for query in read.queries(ROOT) if query.file == name and "variable" not in query.panel]
            self.assertEqual([(panel.title, len(panel.targets)) for panel in dashboard.panels()],
                             [(title, len(list(group))) for title, group in itertools.groupby(
                                 found, lambda query: query.panel)], name)

    def test_replaces_variables_in_all_their_forms(self):
        text = 'a{b="$tenant",c="${tenant}",d="${tenant:regex}"}[$__rate_interval] $1'
        self.assertEqual('a{b="acme",c="acme",d="acme"}[5m] $1',
                         read.substituted(text, dict(read.VALUES, tenant="acme")))

    def test_refuses_a_variable_that_nobody_sets(self):
        with self.assertRaisesRegex(ValueError, r"nothing is known of \$typo\nhint: "):
            read.substituted("a[$typo]", read.VALUES)

    def test_refuses_a_folder_without_dashboards(self):
        with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(FileNotFoundError, "no such file\nhint: "):
            list(read.queries(folder))

    def test_says_which_queries_need_another_exporter(self):
        for query in read.queries(ROOT):
            self.assertEqual("DCGM_" in query.expression, query.optional, query)


class Writing(unittest.TestCase):
    def test_panels_of_grafana_lie_side_by_side_and_have_ids_of_their_own(self):
        for path in sorted(ROOT.glob(read.GRAFANA)):
            document = json.loads(path.read_text())
            folded = [inner for row in document["panels"] for inner in row.get("panels") or []]
            everything = document["panels"] + folded
            self.assertEqual(len(everything), len({panel["id"] for panel in everything}))
            taken = set()
            for panel in everything:
                place = panel["gridPos"]
                cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                         for y in range(place["y"], place["y"] + place["h"])}
                self.assertLessEqual(place["x"] + place["w"], 24)
                self.assertFalse(cells & taken, panel["title"])
                taken |= cells
            self.assertEqual(len(folded) > 0, any("optional" in panel["title"] for panel in document["panels"]))

    def test_dashboards_of_grafana_have_ids_of_their_own(self):
        documents = [json.loads(path.read_text()) for path in ROOT.glob(read.GRAFANA)]
        self.assertEqual({"llama-gateway-service", "llama-gateway-tenants", "llama-gateway-capacity"},
                         {document["uid"] for document in documents})

    def test_rates_wait_for_four_readings_of_whom_they_read(self):
        for path in ROOT.glob(read.GRAFANA):
            for panel, _ in read.panels(json.loads(path.read_text())):
                for target in panel["targets"]:
                    self.assertEqual("1m" if "llamacpp:" in target["expr"] else "30s", target["interval"])
        monitors = yaml.safe_load_all((ROOT / "manifests/components/monitoring/20-servicemonitors.yaml").read_text())
        self.assertEqual(["30s", "60s"], [monitor["spec"]["endpoints"][0]["interval"] for monitor in monitors])

    def test_openshifts_console_can_replace_all_variables(self):
        [path] = ROOT.glob(read.OPENSHIFT)
        document = json.loads(path.read_text())
        # As its code does it: names without braces, and label_values with a blank.
        names = [variable["name"] for variable in document["templating"]["list"]]
        for variable in document["templating"]["list"]:
            self.assertRegex(variable["query"], r"^label_values\(.*, \w+\)$")
        for panel, _ in read.panels(document):
            for target in panel["targets"]:
                text = re.sub(r"\$(%s)(?![a-zA-Z0-9_])" % "|".join(names), ".+", target["expr"])
                text = re.sub(r"\$__(rate_interval|range)(?![a-zA-Z0-9_])", "5m", text)
                self.assertNotIn("$", text)
                promql_parser.parse(text)

    def test_openshifts_console_shows_one_number_where_it_shows_only_the_first(self):
        [path] = ROOT.glob(read.OPENSHIFT)
        for panel, _ in read.panels(json.loads(path.read_text())):
            if panel["type"] == "singlestat":
                self.assertEqual(1, len(panel["targets"]), panel["title"])
                self.assertNotIn(" by (", panel["targets"][0]["expr"].replace("sum by (le)", ""), panel["title"])

    def test_a_page_refuses_a_query_that_would_end_its_text(self):
        panel = Panel("x", "x", "short", (Target("a{b=~`c`}"),))
        with self.assertRaisesRegex(ValueError, "backtick"):
            prometheus.section(panel)

    def test_failures_are_those_of_the_objectives(self):
        rules = (ROOT / "manifests/components/monitoring/21-prometheusrule-slo.yaml").read_text()
        failed = re.search(r"record: llama_gateway:requests:failed_increase5m.*?ending=~\"([^\"]+)\"", rules, re.DOTALL)
        self.assertEqual(set(failed[1].split("|")), set(FAULTS.split("|")))


class Components(unittest.TestCase):
    def test_the_one_for_openshifts_console_is_a_config_map_that_the_console_finds(self):
        objects = overlays.parse(overlays.render(ROOT / "manifests/components/console-dashboard"), "console-dashboard")
        self.assertEqual([], [fault for thing in objects for fault in manifests.against_schemas(thing, {})])
        [thing] = objects
        self.assertEqual(("ConfigMap", "openshift-config-managed"), (thing["kind"], thing["metadata"]["namespace"]))
        self.assertEqual({"true"}, {thing["metadata"]["labels"]["console.openshift.io/" + name]
                                    for name in ("dashboard", "odc-dashboard")})
        self.assertEqual(1, len(thing["data"]), "the console reads the first file only")

    def test_overlays_with_grafana_have_the_rules_whose_names_it_shows(self):
        for folder in overlays.folders(ROOT / "manifests/overlays"):
            text = (folder / "kustomization.yaml").read_text()
            self.assertEqual(folder.name.startswith("kubernetes-"), "components/grafana" in text, folder.name)
            self.assertTrue("components/grafana" not in text or "components/monitoring" in text, folder.name)


if __name__ == "__main__":
    unittest.main()

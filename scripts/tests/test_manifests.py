"""scripts/manifests: each check refuses an overlay that is broken on purpose, and none refuses a good one."""

import contextlib
import copy
import io
import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/lib"))
import manifests  # noqa: E402
import overlays  # noqa: E402

OBJECTS = {}
FOLDER = tempfile.TemporaryDirectory()
OUT = Path(FOLDER.name)


def setUpModule():
    for name in ("openshift-kimi-k2-t4", "kubernetes-gpt-oss-20b-t4"):
        for entry in overlays.parse(overlays.render(ROOT / "manifests/overlays" / name), name):
            OBJECTS[name, entry["kind"], entry["metadata"]["name"]] = entry


def tearDownModule():
    FOLDER.cleanup()


def good(kind, name):
    """A copy of an object of the first overlay that has one of this kind and name."""
    return copy.deepcopy(next(entry for (_, *of), entry in OBJECTS.items() if of == [kind, name]))


def put(entry, path, value):
    """Sets the field at a path of keys and places."""
    *way, last = path
    for key in way:
        entry = entry[key]
    entry[last] = value


def run(root, names):
    """The exit code of scripts/manifests, and what it says about problems."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = manifests.main(root, names)
    return code, errors.getvalue()


class Schemas(unittest.TestCase):
    def problems(self, kind, name, path, value):
        entry = good(kind, name)
        own = manifests.own_schemas()
        self.assertEqual(manifests.against_schemas(entry, own), [])
        put(entry, path, value)
        return "\n".join(manifests.against_schemas(entry, own))

    def test_a_misspelt_field_is_wrong_for_the_oldest_and_the_newest_kubernetes(self):
        said = self.problems("Deployment", "kimi-k2-gateway", ["spec", "template", "spec", "tolerates"], [])
        self.assertIn("Deployment kimi-k2-gateway: spec.template.spec: ", said)
        for version in manifests.VERSIONS:
            self.assertIn(f"(Kubernetes {version})", said)

    def test_a_field_that_the_oldest_kubernetes_does_not_know_is_wrong(self):
        limits = {"limits": {"memory": "1Gi"}}
        said = self.problems("Deployment", "kimi-k2-gateway", ["spec", "template", "spec", "resources"], limits)
        self.assertIn("(Kubernetes 1.29)", said)
        self.assertNotIn("(Kubernetes 1.37)", said)

    def test_a_kind_without_a_schema_is_wrong(self):
        entry = {"apiVersion": "example.com/v1", "kind": "Teapot", "metadata": {"name": "short"}}
        said = "\n".join(manifests.against_schemas(entry, manifests.own_schemas()))
        self.assertIn("Teapot short: Kubernetes 1.29 has no example.com/v1/Teapot\nhint: ", said)

    def test_other_kinds_are_refused_for_what_their_clusters_would_drop_or_take_for_something_else(self):
        pods = ("ServiceMonitor", "kimi-k2-gateway")
        rule = ["spec", "groups", 0, "rules", 0]
        for of, path, value, said in [
            (("Route", "kimi-k2-llamacpp"), ["spec", "tls", "termination"], "Edge", "spec.tls.termination: 'Edge'"),
            (("Route", "kimi-k2-llamacpp"), ["spec", "tls", "insecureEdgeTerminationPolicy"], "Redirect", "'Redirect'"),
            (("Route", "kimi-k2-llamacpp"), ["spec", "tsl"], {}, "('tsl' was unexpected)"),
            (("Route", "kimi-k2-llamacpp"), ["metadata"], {"name": "x", "labels": {}}, "'namespace' is a required"),
            (("ImageStream", "kimi-k2-gateway"), ["spec", "lookupPolicy", "local"], "true", "not of type 'boolean'"),
            (("BuildConfig", "kimi-k2-gateway"), ["spec", "source", "type"], "Git", "'Binary' was expected"),
            (("BuildConfig", "kimi-k2-gateway"), ["spec", "output", "to", "name"], "kimi-k2-gateway", "does not match"),
            (("HTTPRoute", "kimi-k2-llamacpp"), ["spec", "rules", 0, "timeouts", "request"], "4h1", "does not match"),
            (pods, ["spec", "endpoints", 0, "interval"], "15", "'15' does not match"),
            (pods, ["spec", "endpoints", 0, "bearerTokenFile"], "/token", "('bearerTokenFile' was unexpected)"),
            (pods, ["spec", "selector", "matchLabels", "app"], 1, "1 is not of type 'string'"),
            (("PrometheusRule", "kimi-k2-gateway"), [*rule, "record"], "both", "is valid under each of"),
            (("PrometheusRule", "kimi-k2-gateway"), [*rule, "annotations"], {}, "'summary' is a required property"),
        ]:
            with self.subTest(of=of, path=path):
                self.assertIn(said, self.problems(*of, path, value))


class Alerts(unittest.TestCase):
    COMPONENT = ROOT / "manifests/components/monitoring"

    def problems(self, change):
        """What is said of the rules about keys and certificates after a change of one of them."""
        groups = copy.deepcopy(manifests.shipped_groups(self.COMPONENT))
        group, = [group for group in groups if group["name"] == "llama-gateway-access"]
        change({rule.get("alert"): rule for rule in group["rules"]})
        with tempfile.TemporaryDirectory() as folder:
            return "\n".join(manifests.against_promtool(groups, [self.COMPONENT / "tests/access.yaml"], Path(folder)))

    def test_the_shipped_ones_are_good(self):
        self.assertEqual(self.problems(lambda _: None), "")

    def test_an_expression_that_does_not_parse_is_wrong(self):
        said = self.problems(lambda rules: rules["LlamaGatewayKeyExpired"].update(expr="sum(("))
        self.assertIn("promtool check rules", said)

    def test_an_alert_that_comes_at_another_time_is_wrong(self):
        said = self.problems(lambda rules: rules["LlamaGatewayDeclaredKeysUnusable"].update({"for": "6m"}))
        self.assertIn("promtool test rules access.yaml", said)
        self.assertIn("LlamaGatewayDeclaredKeysUnusable", said)

    def test_the_shipped_overlays_have_the_rules_that_are_tested(self):
        shipped = manifests.shipped_groups(self.COMPONENT)
        for overlay in sorted({overlay for overlay, *_ in OBJECTS}):
            with self.subTest(overlay=overlay):
                of_it = [entry for (name, *_), entry in OBJECTS.items() if name == overlay]
                self.assertEqual(manifests.rule_groups(of_it), shipped)

    def test_rules_with_another_objective_are_checked_and_not_tested(self):
        checks = manifests.Checks(ROOT, OUT)
        changed = [good("PrometheusRule", "kimi-k2-gateway-slo")]
        rules = changed[0]["spec"]["groups"][0]["rules"]
        # docs/alerts.md says how to patch these three.
        self.assertEqual([rule["record"] for rule in rules[:3]], [
            "llama_gateway:requests:objective", "llama_gateway:time_to_first_token:objective",
            "llama_gateway:time_to_first_token:in_time_increase5m"])
        rule = rules[0]
        rule["expr"] = rule["expr"].replace("0.995", "0.9")
        self.assertEqual(checks.alerts(changed), [])
        rule["expr"] += ")"
        said, = checks.alerts(changed)
        self.assertIn("promtool check rules llama-gateway-slo.yaml", said)


class Configuration(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = manifests.gateway_binary(ROOT)

    def gateway_says(self, change):
        config, deployment = good("ConfigMap", "kimi-k2-gateway-config"), good("Deployment", "kimi-k2-gateway")
        change(config["data"], deployment["spec"]["template"]["spec"]["containers"][0]["env"])
        found = manifests.gateway_configuration([config, deployment], self.gateway, OUT / "gateway.toml")
        return "\n".join(found)

    def test_a_key_that_the_gateway_does_not_know_is_wrong(self):
        self.assertEqual(self.gateway_says(lambda *_: None), "")
        said = self.gateway_says(lambda data, _: data.update({"gateway.toml": "[timeouts]\nsilense = '1m'\n"}))
        self.assertIn("gateway.toml: ", said)
        self.assertIn("silence", said)

    def test_a_variable_that_the_gateway_does_not_know_is_wrong(self):
        variable = {"name": "LLAMA_GATEWAY_SERVER_TRUSTED_PROXIES", "value": "everybody"}
        self.assertIn("everybody", self.gateway_says(lambda _, variables: variables.append(variable)))

    def test_a_set_without_gateway_toml_is_wrong(self):
        self.assertIn("there is no gateway.toml", self.gateway_says(lambda data, _: data.clear()))

    def test_a_parameter_that_the_entrypoint_refuses_is_wrong(self):
        config, entrypoint = good("ConfigMap", "kimi-k2-llamacpp-config"), ROOT / "server-image/entrypoint.sh"
        self.assertEqual(manifests.parameters([config], entrypoint), [])
        config["data"]["CTX_SIZE"] = "16k"
        said, = manifests.parameters([config], entrypoint)
        self.assertIn('CTX_SIZE is "16k"', said)

    def test_a_variable_from_a_secret_is_no_fault_of_the_file(self):
        reference = {"name": "LLAMA_GATEWAY_UPSTREAM_API_KEY_FILE", "valueFrom": {"secretKeyRef": {}}}
        self.assertEqual(self.gateway_says(lambda _, variables: variables.append(reference)), "")

    def test_a_set_whose_gateway_has_another_name_is_wrong(self):
        said, = manifests.gateway_configuration([good("ConfigMap", "kimi-k2-gateway-config")], self.gateway, OUT / "x")
        self.assertIn("there is no Deployment kimi-k2-gateway", said)


class Whole(unittest.TestCase):
    def test_an_overlay_that_does_not_render_is_wrong(self):
        with tempfile.TemporaryDirectory() as folder:
            overlay = Path(folder) / "manifests/overlays/broken"
            overlay.mkdir(parents=True)
            (overlay / "kustomization.yaml").write_text("resources: [nowhere.yaml]\n")
            with mock.patch.dict(os.environ, CARGO_TARGET_DIR=str(ROOT / "target")):
                code, said = run(Path(folder), [])
        self.assertEqual(code, 1)
        self.assertIn("nowhere.yaml", said)
        self.assertIn("hint: kubectl kustomize ", said)

    def test_a_folder_without_overlays_is_wrong(self):
        with tempfile.TemporaryDirectory() as folder:
            code, said = run(Path(folder), [])
        self.assertEqual(code, 1)
        self.assertIn("manifests/overlays has no kustomization.yaml\nhint: ", said)

    def test_an_overlay_that_is_not_there_is_named(self):
        code, said = run(ROOT, ["dev-gpu"])
        self.assertEqual(code, 1)
        self.assertIn("there is no overlay dev-gpu\nhint: there are dev-cpu, ", said)

    def test_missing_tools_are_named_with_what_to_do(self):
        with mock.patch.dict(os.environ, PATH="/nowhere"):
            code, said = run(ROOT, [])
        self.assertEqual(code, 1)
        self.assertIn("kubectl is missing: pip install", said)
        self.assertIn("promtool is missing: apt-get install prometheus", said)


if __name__ == "__main__":
    unittest.main()

"""scripts/check-documents on a small project that is right, and on the same one with a fault for each rule."""
import contextlib
import importlib.machinery
import importlib.util
import io
import pathlib
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "check-documents"
LOADER = importlib.machinery.SourceFileLoader("check_documents", str(SCRIPT))
check_documents = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_documents", LOADER))
LOADER.exec_module(check_documents)

GATEWAY = """#!/usr/bin/env bash
case "$*" in
--help) printf 'Commands:\\n  serve  Run\\n  keys   Keys\\n  help   Help\\n\\n' ;;
"serve --help") printf 'Options:\\n      --config <FILE>  A file\\n' ;;
"keys --help") printf 'Commands:\\n  create  Make one\\n  list    List them\\n' ;;
"keys create --help") printf 'Options:\\n      --tenant <T>  Who\\n      --json  As JSON\\n  -v, --verbose  More\\n' ;;
"keys list --help") printf 'Options:\\n      --json  As JSON\\n' ;;
"check-config "*)
    if grep -q 'no-such' "$2"; then
        grep -q 'policies.no-such' "$2" || { echo "there is no policy \\`no-such\\`" >&2; exit 1; }
    fi
    if grep -q '= = ' "$2"; then echo "TOML parse error" >&2; exit 1; fi
    if grep -q nonsense "$2"; then echo "unknown key nonsense" >&2; exit 1; fi
    for file in $(sed -n 's/^key_file = "\\(.*\\)"/\\1/p' "$2"); do
        [ -s "$file" ] || { echo "no $file" >&2; exit 1; }
    done
    ;;
*) exit 2 ;;
esac
"""

DEPLOY = """#!/usr/bin/env bash
# --unknown stands in a comment of nobody
case $1 in --overlay | switch-model) ;; esac
. scripts/lib/deploy/more.sh
"""

MANIFESTS = """
apiVersion: v1
kind: Namespace
metadata: {name: models}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, namespace: models}
spec:
  template:
    metadata: {labels: {app: server}}
    spec:
      initContainers: [{name: fetch, image: kimi-k2-gateway, env: [{name: MODEL_REPO, value: x}]}]
      containers: [{name: main}]
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: rules}
spec:
  groups:
    - name: all
      rules:
        - alert: ServerDown
          annotations:
            runbook_url: https://example.com/docs/TROUBLESHOOTING.md#server-down
"""

ERRORS = """
    pub fn label(self) -> &'static str {
        match self { Self::One => "first_error", }
    }
    pub fn status(self) -> u16 { match self { Self::One => "no_label" } }
"""

README = """\
# The project

See [the guide](docs/guide.md#second-part), [here](#the-project) and `docs/guide.md`; `manifests/*.yaml` are many.

```sh
scripts/deploy.sh --overlay x --more    # with a comment's --nothing
scripts/deploy.sh switch-model A B
MODEL_REPO=x oc -n models exec deploy/server -c main -- llama-gateway keys create --tenant T --json
oc get secret token | grep -q x && kubectl apply -k manifests && kubectl apply -f manifests/NAME
oc logs -f deploy/server; oc get pods -n kube-system; oc get deploy NAME
```

```console
$ llama-gateway keys list \\
    --json
--nothing of this is a command
```

`keys create --tenant T [--json]` is one, `MODEL_REPO=x` a parameter, `llama_gateway_up{state}` a metric, `Q4_K_M` none.

```toml
[admin]
key_file = "/run/secrets/admin/key"
[tenants.x]
policy = "no-such"
```

```yaml
a: [b]
```

```json
{"a": 1, ...}
```
"""

TROUBLE = "# Trouble\n\n## Server down\n\n`first_error`\n"


class Documents(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.write("README.md", README)
        self.write("docs/guide.md", "# Guide\n\n## Second part\n\n## Second part\n\n[again](#second-part-1)\n")
        self.write("docs/metrics.md", "# Metrics\n\n`llama_gateway_up`\n")
        self.write("docs/TROUBLESHOOTING.md", TROUBLE)
        self.write("manifests/all.yaml", MANIFESTS)
        self.write("manifests/token.yaml.example", "apiVersion: v1\nkind: Secret\nmetadata: {name: token}\n")
        self.write("gateway/src/error.rs", ERRORS)
        self.write("scripts/deploy.sh", DEPLOY)
        self.write("scripts/lib/deploy/more.sh", "echo --more\n")
        self.write("target/debug/README.md", "[not ours](nowhere.md)\n")
        for program in ("llama-gateway", "loadtest", "model-fetcher"):
            self.write(f"target/debug/{program}", GATEWAY).chmod(0o755)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def add(self, text):
        self.write("README.md", README + "\n" + textwrap.dedent(text))

    def run_script(self, *files):
        told, complaint = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(complaint):
            code = check_documents.main(["--root", str(self.root), *map(str, files)])
        return code, told.getvalue(), complaint.getvalue()

    def assert_fault(self, rule, said, place=None):
        """Exactly one fault is told, by this rule, with these words, at this place."""
        code, told, _ = self.run_script()
        self.assertEqual(code, 1, told)
        lines = [line for line in told.splitlines() if not line.startswith("hint: ")]
        self.assertEqual(len(lines), 1, told)
        self.assertTrue(lines[0].endswith(f"[{rule}]"), told)
        self.assertIn(said, lines[0])
        if place:
            self.assertTrue(lines[0].startswith(place + ":"), told)

    def block(self, language, text):
        self.add(f"```{language}\n{text}\n```\n")

    def test_a_good_project_has_no_fault(self):
        code, told, summary = self.run_script()
        self.assertEqual((code, told), (0, ""), told)
        self.assertIn("4 documents, 0 faults", summary)

    def test_programs_that_are_not_built_are_named(self):
        (self.root / "target/debug/loadtest").unlink()
        code, told, complaint = self.run_script()
        self.assertEqual((code, told), (2, ""))
        self.assertIn("loadtest not found", complaint)
        self.assertIn("hint: cargo build", complaint)

    def test_a_link_to_a_file_that_is_not_there(self):
        self.add("[x](docs/other.md)")
        self.assert_fault("links", "docs/other.md: there is no such file", f"README.md:{README.count(chr(10)) + 2}")

    def test_a_link_over_two_lines(self):
        self.add("[x\ny](docs/other.md)")
        self.assert_fault("links", "docs/other.md: there is no such file")

    def test_a_link_to_an_anchor_that_is_not_there(self):
        self.add("[x](docs/guide.md#third-part)")
        self.assert_fault("links", "guide.md has no heading with that anchor")

    def test_a_link_to_an_anchor_of_the_same_file(self):
        self.add("[x](#the-end)")
        self.assert_fault("links", "README.md has no heading with that anchor")

    def test_a_link_out_of_the_project(self):
        self.add("[x](../elsewhere.md)")
        self.assert_fault("links", "leads out of the project")

    def test_a_link_by_reference_and_one_in_html(self):
        self.add("[x]: docs/other.md")
        self.assert_fault("links", "docs/other.md")
        self.add('<img src="docs/other.svg">')
        self.assert_fault("links", "docs/other.svg")

    def test_a_heading_in_a_code_block_is_no_anchor(self):
        self.add("[x](#not-one)\n\n```text\n# Not one\n```\n")
        self.assert_fault("links", "#not-one")

    def test_a_path_that_is_not_there(self):
        self.add("See `scripts/lib/other.sh`.")
        self.assert_fault("paths", "`scripts/lib/other.sh`: there is no such file")

    def test_a_path_with_a_star_that_meets_nothing(self):
        self.add("See `manifests/*.json`.")
        self.assert_fault("paths", "manifests/*.json")

    def test_a_block_that_bash_does_not_understand(self):
        self.block("sh", "if true; then echo")
        self.assert_fault("shell", "bash does not understand this")

    def test_a_console_command_that_bash_does_not_understand(self):
        self.block("console", "$ echo )\nx")
        self.assert_fault("shell", "bash does not understand this")

    def test_a_command_that_the_program_does_not_have(self):
        self.block("sh", "llama-gateway keys drop")
        self.assert_fault("commands", "llama-gateway keys has no command drop")

    def test_an_option_that_the_command_does_not_have(self):
        self.block("sh", "llama-gateway keys list --tenant=T")
        self.assert_fault("commands", "llama-gateway keys list has no option --tenant")

    def test_an_option_in_a_span_with_and_without_the_program(self):
        self.add("`llama-gateway serve --port 1`")
        self.assert_fault("commands", "llama-gateway serve has no option --port")
        self.add("`keys list [--csv]`")
        self.assert_fault("commands", "llama-gateway keys list has no option --csv")

    def test_an_option_in_an_indented_block_a_pipe_and_a_substitution(self):
        for text in ("    llama-gateway keys list --csv", "```sh\ntrue | llama-gateway keys list --csv\n```",
                     '```sh\necho "$(llama-gateway keys list --csv)"\n```',
                     "```sh\noc exec deploy/server -- llama-gateway keys list --csv\n```"):
            with self.subTest(text):
                self.write("README.md", README + "\nText.\n\n" + text + "\n")
                self.assert_fault("commands", "has no option --csv")

    def test_a_script_that_is_not_there(self):
        self.block("sh", "./scripts/other --x")
        self.assert_fault("commands", "scripts/other: there is no such script")

    def test_an_option_that_the_script_does_not_know(self):
        self.block("sh", "scripts/deploy.sh --unknown")
        self.assert_fault("commands", "scripts/deploy.sh does not know --unknown")

    def test_objects_that_the_manifests_do_not_have(self):
        for command, said in (
            ("oc logs deploy/gateway", "no Deployment gateway"),
            ("kubectl get secret other", "no Secret other"),
            ("oc create secret generic other --from-file=a=b", "no Secret other"),
            ("oc delete -n other deploy/server", "-n other: no such namespace"),
            ("oc logs deploy/server -c other", "no pod of the manifests has a container other"),
            ("oc get pods -l app=other", "app=other"),
            ("oc apply -k manifests/other", "manifests/other: there is no such file"),
            ("oc apply -k other/NAME", "other/NAME: there is no such file"),
            ("oc describes deploy/server", "no command describes"),
            ("oc project other", "no Namespace other"),
            ("oc start-build other", "no BuildConfig other"),
            ("oc exec deploy/server -c fetch -- ls /models", "the image of fetch has no ls"),
            ("oc rsh -c fetch deploy/server", "the image of fetch has no shell"),
        ):
            with self.subTest(command):
                self.block("sh", command)
                self.assert_fault("objects", said)

    def test_an_object_in_a_span(self):
        self.add("`oc get deploy gateway`")
        self.assert_fault("objects", "no Deployment gateway")

    def test_data_that_does_not_parse(self):
        for language, text, said in (("json", '{"a": }', "no JSON"), ("yaml", "a: [b", "no YAML"),
                                     ("python", "a = (", "no Python"),
                                     ("toml", "a = = 1", "TOML parse error"), ("toml", "nonsense = 1", "unknown key")):
            with self.subTest(text):
                self.block(language, text)
                self.assert_fault("snippets", said)

    def test_of_a_workload_the_syntax_counts(self):
        self.block("toml", 'duration = "5m"\nnonsense = 1')
        self.assertEqual(self.run_script()[0], 0)
        self.block("toml", 'duration = "5m"\na = = 1')
        self.assert_fault("snippets", "TOML parse error")

    def test_a_parameter_that_nothing_reads(self):
        self.add("Set `MODEL_REPOSITORY`.")
        self.assert_fault("parameters", "MODEL_REPOSITORY: nothing in the project reads it")
        self.block("sh", "MODEL_REPOSITORY=x scripts/deploy.sh")
        self.assert_fault("parameters", "MODEL_REPOSITORY")

    def test_a_variable_of_the_gateway_that_has_no_key(self):
        self.write("docs/configuration.md", "# C\n\n`LLAMA_GATEWAY_A_B`\n")
        self.add("`LLAMA_GATEWAY_A_B` and `LLAMA_GATEWAY_A_C`")
        self.assert_fault("parameters", "LLAMA_GATEWAY_A_C")

    def test_a_metric_that_the_gateway_does_not_have(self):
        self.add("`llama_gateway_down`")
        self.assert_fault("metrics", "the gateway has no metric llama_gateway_down")

    def test_an_error_code_without_advice(self):
        self.write("docs/TROUBLESHOOTING.md", TROUBLE.replace("`first_error`", "first_error"))
        self.assert_fault("codes", "the code first_error")

    def test_an_alert_whose_runbook_is_not_there(self):
        self.write("docs/TROUBLESHOOTING.md", TROUBLE.replace("Server down", "Server gone"))
        self.assert_fault("runbooks", "docs/TROUBLESHOOTING.md#server-down", "manifests/all.yaml:25")

    def test_a_block_that_is_never_closed(self):
        self.add("```sh\necho")
        code, _, complaint = self.run_script()
        self.assertEqual(code, 2)
        self.assertIn("a code block that is never closed", complaint)
        self.assertNotIn("Traceback", complaint)

    def test_a_rule_that_found_something_says_what_it_wants(self):
        self.add("[x](docs/other.md)")
        self.assertIn("hint: [links] Relative links lead to a file of the project", self.run_script()[1])

    def test_a_folder_without_documents_is_an_error(self):
        for path in self.root.rglob("*.md"):
            path.unlink()
        code, _, complaint = self.run_script()
        self.assertEqual(code, 2)
        self.assertIn("has no Markdown file\nhint: ", complaint)

    def test_files_that_documents_are_compared_with_must_be_there(self):
        for name, said in (("gateway/src/error.rs", "has no codes\nhint: "), ("docs/metrics.md", "No such file")):
            with self.subTest(name):
                self.setUp()
                if said == "No such file":
                    (self.root / name).unlink()
                else:
                    self.write(name, "")
                code, _, complaint = self.run_script()
                self.assertEqual(code, 2)
                self.assertIn(said, complaint)

    def test_single_files_can_be_named(self):
        self.add("[x](docs/other.md)")
        self.assertEqual(self.run_script(self.root / "docs/guide.md")[0], 0)
        self.assertEqual(self.run_script(self.root / "README.md")[0], 1)

    def test_it_runs_by_itself(self):
        self.add("[x](docs/other.md)")
        outcome = subprocess.run([sys.executable, SCRIPT, "--root", self.root], capture_output=True, text=True)
        self.assertEqual(outcome.returncode, 1)
        self.assertIn("docs/other.md: there is no such file [links]", outcome.stdout)


if __name__ == "__main__":
    unittest.main()

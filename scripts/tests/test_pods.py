"""The pods of the dev-cpu overlay, run as its manifests say: a chat, the probes, and how both of them drain.

Builds both images, unless $IMAGES is a folder where scripts/images has done so. Then a single test is
`scripts/tests/test_pods.py --inside $IMAGES -v Draining`.
"""

import contextlib
import copy
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from pods import Failed, sandbox, setup
from pods.image import Images, build
from pods.kubelet import Cluster
from pods.manifest import Manifest, render

OVERLAY = "dev-cpu"
GATEWAY, LLAMA_SERVER = "kimi-k2-gateway", "kimi-k2-llamacpp"
SERVICE = "{}.llm-models-llamacpp.svc.cluster.local"
ARBITRARY_USER = 1006700000
# Between two probes: 15 s of a manifest are 0.1 s here. Thresholds and timeouts stay.
SPEED = 150
DEADLINE = 60
INSIDE = "--inside"
LOGS = "the logs are in (.*)/logs"


class Outside(unittest.TestCase):
    """What is seen from outside of the namespaces."""

    @classmethod
    def setUpClass(cls):
        if os.environ.get("IMAGES"):
            cls.images = Path(os.environ["IMAGES"]).absolute()
            return
        folder = tempfile.TemporaryDirectory(prefix="images-", dir=ROOT / ".cache")
        cls.addClassCleanup(folder.cleanup)
        cls.images = Path(folder.name) / "both"
        build(cls.images)

    def test_everything_inside(self):
        """Runs the other classes of this file in namespaces of their own; their results are in the output."""
        run = subprocess.run([sys.executable, __file__, INSIDE, self.images, "-v"], check=False)
        self.assertEqual(run.returncode, 0, "a test in the namespaces failed: see above")

    def test_a_developer_chats_with_what_scripts_pods_runs_and_ctrl_c_leaves_nothing(self):
        with running(self.images) as (process, port, folder):
            made = pods("exec", GATEWAY, "--", "llama-gateway", "keys", "create", "--tenant", "me")
            self.assertEqual(made.returncode, 0, made.stderr)
            status, reply = post(("127.0.0.1", port), made.stdout.strip(), {"max_tokens": 5})
            self.assertEqual(status, 200, reply)
            self.assertEqual(reply["usage"]["completion_tokens"], 5)
            self.assertIn("other does not run: there is kimi-k2-gateway and", pods("exec", "other", "--", "id").stderr)
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(DEADLINE), 130)
        self.nothing_runs(folder)
        self.assertFalse(folder.exists())

    def test_a_run_that_is_killed_leaves_files_only_and_the_next_one_removes_them(self):
        with running(self.images) as (process, _, killed):
            process.kill()
            process.wait(DEADLINE)
        self.nothing_runs(killed)
        self.assertTrue(killed.exists())
        # This one fails, and shows why.
        with tempfile.TemporaryDirectory() as empty:
            failing = pods("run", OVERLAY, "--images", self.images, "--models", empty)
        self.assertEqual(failing.returncode, 1)
        self.assertIn("init container kimi-k2-llamacpp-2-fetch-model ended with code", failing.stderr)
        self.assertIn("--- the end of kimi-k2-llamacpp-2-fetch-model.log:\n", failing.stderr)
        folder = Path(re.search(LOGS, failing.stderr)[1])
        self.nothing_runs(folder)
        self.assertEqual((killed.exists(), folder.exists()), (False, False))

    def test_without_a_run_there_is_nothing_to_get_into(self):
        run = pods("exec", GATEWAY, "--", "id")
        self.assertEqual(run.returncode, 1)
        self.assertIn("nothing runs: start it with scripts/pods run dev-cpu", run.stderr)

    def nothing_runs(self, folder):
        until(lambda: not processes_below(folder), "the processes of the pods to end")
        self.assertNotIn(str(folder.resolve()), Path("/proc/mounts").read_text())


class Inside(unittest.TestCase):
    """A cluster for each test."""

    model = "tiny-model"

    def run(self, result=None):
        """Shows the ends of the logs if the test fails."""
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before and getattr(self, "cluster", None):
            for log in sorted(self.cluster.logs.iterdir()):
                print(f"--- the end of {log.name}:", *log.read_text(errors="replace").splitlines()[-25:], sep="\n")

    def start(self, change=lambda manifest: None, as_on_openshift=True):
        """A cluster of the overlay, with what `change` does to its objects."""
        manifest = Manifest(copy.deepcopy(RENDERED.objects))
        if as_on_openshift:
            for name in (GATEWAY, LLAMA_SERVER):
                for field in ("runAsUser", "runAsGroup", "fsGroup"):
                    pod_of(manifest, name)["securityContext"].pop(field, None)
        change(manifest)
        folder = Path(tempfile.mkdtemp(dir=FOLDER))
        self.cluster = Cluster(manifest, Images(IMAGES), folder, SPEED)
        self.addCleanup(self.cluster.close)
        setup.fill_models(manifest, self.cluster.claims, MODELS[self.model])
        return self.cluster

    def start_both(self, change=lambda manifest: None, **options):
        """Both pods, with the gateway serving, and a key."""
        cluster = self.start(change, **options)
        self.llama_server = cluster.create(LLAMA_SERVER)
        self.llama_server.wait_ready(DEADLINE)
        self.gateway = cluster.create(GATEWAY)
        self.wait_served()
        made = self.gateway.container.execute(["llama-gateway", "keys", "create", "--tenant", "test"])
        self.assertEqual(made.returncode, 0, made.stderr)
        self.key = made.stdout.strip()

    def wait_served(self):
        self.gateway.wait_ready(DEADLINE)
        self.gateway.wait_until(lambda: self.status("/readyz") == 200, DEADLINE, "to serve")

    def chat(self, **options):
        """Status and body of a short chat."""
        return post((self.gateway.address, 8080), self.key, {"max_tokens": 5} | options)

    def status(self, path):
        """Of the gateway's admin port; None if nobody answers."""
        try:
            return get(self.gateway, path)[0]
        except (OSError, http.client.HTTPException):
            return None

    def states(self):
        """The replicas that the gateway knows, and their states."""
        text = get(self.gateway, "/metrics")[1]
        found = re.findall(r'llama_gateway_upstream_state\{state="(\w+)",upstream="([^"]+)"\} 1\n', text)
        return {address: state for state, address in found}

    def in_background(self, call):
        pool = ThreadPoolExecutor(1)
        self.addCleanup(pool.shutdown, wait=False)
        return pool.submit(call)


class TheImages(unittest.TestCase):
    """What registries and clusters read of the images, and what is in them beside the programs."""

    def test_both_say_what_they_are_and_run_as_no_user_in_particular(self):
        version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
        for name in (GATEWAY, LLAMA_SERVER):
            with self.subTest(name):
                config = json.loads((IMAGES / name / "image.json").read_text())
                self.assertEqual(config["User"], "65532:0")
                labels = {label.removeprefix("org.opencontainers.image."): text
                          for label, text in config["Labels"].items()}
                self.assertEqual((labels["title"], labels["version"]), (name, version))
                for label in ("description", "revision", "source", "licenses"):
                    self.assertTrue(labels[label], label)

    def test_the_data_directory_is_the_groups_where_no_volume_is_mounted(self):
        data = (IMAGES / GATEWAY / "rootfs" / "var" / "lib" / "llama-gateway").stat()
        self.assertEqual((data.st_mode & 0o777, data.st_gid), (0o770, 0))

    def test_the_bill_of_materials_lists_what_was_compiled(self):
        bill = json.loads((IMAGES / LLAMA_SERVER / "rootfs" / "opt" / "llama.cpp" / "sbom.cdx.json").read_text())
        release = re.search(r"^release (.*)$", (ROOT / "server-image" / "llama.cpp.pin").read_text(), re.MULTILINE)
        versions = {component["name"]: component["version"] for component in bill["components"]}
        self.assertEqual((bill["bomFormat"], versions["llama.cpp"]), ("CycloneDX", release.group(1)))
        labels = json.loads((IMAGES / LLAMA_SERVER / "image.json").read_text())["Labels"]
        self.assertIn(release.group(1), labels["org.opencontainers.image.description"])
        for name in ("cpp-httplib", "nlohmann-json", "miniaudio", "stb_image", "xxHash"):
            self.assertTrue(versions[name], name)


class TheOverlay(Inside):
    """A chat through both pods, and the rights that they have."""

    model = "model"

    def test_dev_cpu_answers_a_chat_exactly_as_it_is(self):
        self.start_both(as_on_openshift=False)
        self.chats()
        self.rights_are_as_they_should(65532, 65532)

    def test_dev_cpu_answers_a_chat_under_the_user_that_openshift_chooses(self):
        self.start_both()
        self.chats()
        self.rights_are_as_they_should(ARBITRARY_USER, ARBITRARY_USER)

    def test_the_health_check_of_the_image_tells_whether_it_serves(self):
        llama_server = self.start().create(LLAMA_SERVER)
        llama_server.wait_ready(DEADLINE)
        image = json.loads((IMAGES / LLAMA_SERVER / "image.json").read_text())
        kind, *command = image["Healthcheck"]["Test"]
        self.assertEqual((kind, llama_server.container.execute(command).returncode), ("CMD", 0))

    def chats(self):
        fetched = self.llama_server.init[0]
        self.assertEqual((fetched.name, fetched.code), ("fetch-model", 0))
        status, reply = self.chat(max_tokens=20, temperature=0)
        self.assertEqual((status, reply["model"]), (200, "smollm2-135m-instruct"), reply)
        self.assertTrue(reply["choices"][0]["message"]["content"].strip())
        # Without a shell, a terminal or an option: it finds the gateway beside it, and its key.
        seen = self.gateway.container.execute(["llama-gateway", "top"])
        self.assertEqual((seen.returncode, "smollm2-135m-instruct" in seen.stdout), (0, True), seen.stderr)

    def rights_are_as_they_should(self, user, group_of_volumes):
        for pod in (self.gateway, self.llama_server):
            with self.subTest(pod=pod.name):
                process = Path("/proc") / str(pod.container.process_id())
                lines = (process / "status").read_text().splitlines()
                fields = {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}
                self.assertEqual(fields["Uid"].split(), [str(user)] * 4)
                self.assertEqual(fields["Gid"].split(), ["0"] * 4)
                self.assertEqual(fields["Groups"], str(group_of_volumes))
                self.assertEqual(fields["NoNewPrivs"], "1")
                for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                    self.assertEqual(int(fields[kind], 16), 0, kind)
                self.assertRegex((process / "mounts").read_text(), r"(?m)^overlay / overlay ro,")
        written = self.shell("echo > /opt/file; echo > /models/file; echo > /run/secrets/upstream/file")
        self.assertEqual(written.stderr.count("Read-only file system"), 3, written.stderr)
        self.assertEqual(self.shell("echo > /tmp/file").returncode, 0)
        self.assertEqual(self.shell("stat -Lc %a:%u:%g /run/secrets/upstream/api-key").stdout.strip(),
                         f"440:0:{group_of_volumes}")

    def shell(self, script):
        return self.llama_server.container.execute(["bash", "-c", script])


class Draining(Inside):
    """Pods that end while a stream runs. (Only how long one may be is not as the manifests have it.)"""

    def start(self, change=lambda manifest: None, **options):
        def changes(manifest):
            manifest.get("ConfigMap", "kimi-k2-llamacpp-config")["data"] |= {"CTX_SIZE": "16384", "THREADS": "1"}
            data = manifest.get("ConfigMap", "kimi-k2-gateway-config")["data"]
            data["gateway.toml"], times = re.subn("(?m)^max_output_tokens = .*", "max_output_tokens = 8192",
                                                  data["gateway.toml"])
            self.assertEqual(times, 1)
            change(manifest)

        return super().start(changes, **options)

    def test_llama_server_finishes_its_stream_and_gets_nothing_new(self):
        self.start_both()
        name = SERVICE.format(LLAMA_SERVER)
        address = f"{self.llama_server.address}:8001"
        self.assertEqual(self.cluster.addresses(name), [self.llama_server.address])
        stream = Stream(self.gateway, self.key)
        with stopped(self.llama_server):
            deletion = self.in_background(self.llama_server.delete)
            until(lambda: self.cluster.addresses(name) == [], "the name to lose its address")
            until(lambda: self.states().get(address) == "leaving", "the gateway to notice")
            self.assertEqual((self.status("/readyz"), self.status("/livez")), (503, 200))
            status, refusal = self.chat()
            self.assertEqual(status, 503, refusal)
            self.assertIn("message", refusal["error"])
            self.assertTrue(self.gateway.ready, "clients are to be told by the gateway")
            self.assertFalse(stream.over.is_set())
            self.assertFalse(deletion.done(), "preStop waits for the stream")
        self.assertEqual(stream.wait_over(), "data: [DONE]")
        ending = deletion.result(DEADLINE)
        self.assertEqual((ending.code, ending.killed, ending.hook_problem), (0, False, None), ending)
        self.assertLess(ending.seconds, ending.grace)
        self.assertIn("drain: nothing is processed any more", self.llama_server.container.log.read_text())
        until(lambda: self.states() == {}, "the gateway to forget it")

        # As Recreate does: the next pod comes when the old one is gone.
        fresh = self.cluster.create(LLAMA_SERVER)
        fresh.wait_ready(DEADLINE)
        self.wait_served()
        self.assertEqual(self.states(), {f"{fresh.address}:8001": "ready"})
        status, reply = self.chat()
        self.assertEqual(status, 200, reply)

    def test_the_gateway_finishes_its_stream_refuses_new_requests_and_ends_by_itself(self):
        self.start_both()
        stream = Stream(self.gateway, self.key)
        with stopped(self.llama_server):
            deletion = self.in_background(self.gateway.delete)
            until(lambda: self.status("/readyz") == 503, "the gateway to drain")
            self.assertEqual(self.cluster.addresses(SERVICE.format(GATEWAY)), [])
            self.assertEqual(self.status("/livez"), 200)
            status, refusal = self.chat()
            self.assertEqual((status, refusal["error"]["code"]), (503, "draining"), refusal)
            self.assertFalse(stream.over.is_set())
            self.assertFalse(deletion.done())
        self.assertEqual(stream.wait_over(), "data: [DONE]")
        ending = deletion.result(DEADLINE)
        self.assertEqual((ending.code, ending.killed), (0, False), ending)
        self.assertLess(ending.seconds, ending.grace)

        # The next one finds keys and ledger where the old one left them.
        self.gateway = self.cluster.create(GATEWAY)
        self.wait_served()
        self.assertEqual(self.chat()[0], 200)

    def test_who_does_not_end_within_the_grace_period_is_killed_and_it_is_told(self):
        def change(manifest):
            pod_of(manifest, GATEWAY)["terminationGracePeriodSeconds"] = 1

        self.start_both(change)
        stream = Stream(self.gateway, self.key)
        with stopped(self.llama_server):
            ending = self.gateway.delete()
            self.assertEqual((ending.code, ending.killed), (128 + signal.SIGKILL, True), ending)
            self.assertGreaterEqual(ending.seconds, ending.grace)
            self.assertNotEqual(stream.wait_over(), "data: [DONE]")


class Mistakes(Inside):
    """What is wrong in a manifest is noticed."""

    def test_a_readiness_probe_of_a_wrong_path_never_lets_the_pod_become_ready(self):
        def change(manifest):
            container_of(manifest, GATEWAY)["readinessProbe"]["httpGet"]["path"] = "/live"

        gateway = self.start(change).create(GATEWAY)
        probe = gateway.health.readiness
        until(lambda: probe.failed > probe.spec["failureThreshold"] and "answers" in probe.reason, "the probe to fail")
        self.assertEqual((gateway.ready, probe.reason), (False, "/live answers 404"))
        self.assertEqual(self.cluster.addresses(SERVICE.format(GATEWAY)), [])

    def test_a_startup_probe_of_a_wrong_path_fails_the_pod(self):
        def change(manifest):
            probe = container_of(manifest, LLAMA_SERVER)["startupProbe"]
            probe["httpGet"]["path"], probe["failureThreshold"] = "/healthz", 5

        llama_server = self.start(change).create(LLAMA_SERVER)
        with self.assertRaisesRegex(Failed, "the startup probe failed 5 times"):
            llama_server.wait_ready(DEADLINE)

    def test_a_liveness_probe_of_a_wrong_port_fails_the_pod(self):
        def change(manifest):
            container_of(manifest, GATEWAY)["livenessProbe"]["httpGet"]["port"] = "http"

        gateway = self.start(change).create(GATEWAY)
        with self.assertRaisesRegex(Failed, "the liveness probe failed .* times: /livez answers 40"):
            gateway.wait_until(lambda: False, DEADLINE, "to fail")

    def test_a_container_that_cannot_write_its_data_fails_the_pod(self):
        def change(manifest):
            mounts = container_of(manifest, GATEWAY)["volumeMounts"]
            next(one for one in mounts if one["name"] == "data")["readOnly"] = True

        gateway = self.start(change).create(GATEWAY)
        with self.assertRaisesRegex(Failed, "the container ended with code 1"):
            gateway.wait_ready(DEADLINE)
        self.assertIn("/var/lib/llama-gateway", gateway.container.log.read_text())

    def test_an_init_container_that_fails_keeps_the_pod_from_starting(self):
        cluster = self.start()
        cluster.manifest.get("ConfigMap", "kimi-k2-llamacpp-config")["data"]["QUANT_TYPE"] = "Q9"
        with self.assertRaisesRegex(Failed, "init container .*-fetch-model ended with code [1-9]"):
            cluster.create(LLAMA_SERVER)

    def test_a_secret_that_is_missing_keeps_the_pod_from_starting(self):
        cluster = self.start()
        cluster.manifest.objects = [one for one in cluster.manifest.objects if one["kind"] != "Secret"]
        with self.assertRaisesRegex(Failed, "Secret kimi-k2-upstream-key is not in the manifest"):
            cluster.create(GATEWAY)

    def test_an_image_that_was_not_built_keeps_the_pod_from_starting(self):
        cluster = self.start()
        container_of(cluster.manifest, GATEWAY)["image"] = "registry.example/team/other:1"
        with self.assertRaisesRegex(Failed, "there is no image other in .*: scripts/images DIR makes them"):
            cluster.create(GATEWAY)


class GracePeriods(unittest.TestCase):
    """In every overlay there is time for what the programs do at their end."""

    def test_the_gateway_may_drain_as_long_as_its_configuration_says(self):
        for overlay, manifest in ALL.items():
            with self.subTest(overlay=overlay):
                text = manifest.get("ConfigMap", "kimi-k2-gateway-config")["data"]["gateway.toml"]
                minutes = int(re.search(r'(?m)^drain_grace = "(\d+)m"$', text)[1])
                # Last words take 2 s, the ledger a moment.
                self.assertGreaterEqual(pod_of(manifest, GATEWAY)["terminationGracePeriodSeconds"], minutes * 60 + 10)

    def test_llama_server_may_drain_as_long_as_its_hook_does(self):
        script = (ROOT / "server-image" / "drain.sh").read_text()
        longest = int(re.search(r"DRAIN_MAX_SECONDS:-(\d+)", script)[1])
        for overlay, manifest in ALL.items():
            with self.subTest(overlay=overlay):
                config = manifest.get("ConfigMap", "kimi-k2-llamacpp-config")["data"]
                seconds = int(config.get("DRAIN_MAX_SECONDS", longest))
                self.assertGreaterEqual(pod_of(manifest, LLAMA_SERVER)["terminationGracePeriodSeconds"], seconds + 10)


def pod_of(manifest, deployment):
    return manifest.get("Deployment", deployment)["spec"]["template"]["spec"]


def container_of(manifest, deployment):
    return pod_of(manifest, deployment)["containers"][0]


class Stream:
    """A chat whose reply is read as it comes, in a thread of its own. It ends at its output cap only."""

    # Seconds, even for the tiny model: time to stop llama-server in between.
    TOKENS = 6000

    def __init__(self, gateway, key):
        self.connection = http.client.HTTPConnection(gateway.address, 8080, timeout=DEADLINE)
        body = chat({"stream": True, "ignore_eos": True, "max_tokens": self.TOKENS})
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Authorization": f"Bearer {key}"})
        self.events, self.last, self.over = 0, "", threading.Event()
        threading.Thread(target=self.read, daemon=True).start()
        until(lambda: self.events > 3 or self.over.is_set(), "the stream to begin")

    def read(self):
        try:
            with contextlib.closing(self.connection):
                for line in self.connection.getresponse():
                    if line.startswith(b"data: "):
                        self.events, self.last = self.events + 1, line.decode().strip()
        except (OSError, http.client.HTTPException) as error:
            self.last = f"{type(error).__name__}: {error}"
        self.over.set()

    def wait_over(self):
        """The last that was read."""
        assert self.over.wait(DEADLINE), "the stream does not end"
        return self.last


@contextlib.contextmanager
def stopped(pod):
    """Its process does nothing meanwhile, so that a stream cannot end before its time."""
    process = pod.container.process_id()
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def chat(options):
    return {"model": "any", "messages": [{"role": "user", "content": "Why is the sky blue?"}]} | options


def post(address, key, options):
    """Status and body of a chat in one piece."""
    connection = http.client.HTTPConnection(*address, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(chat(options)),
                           {"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def get(gateway, path):
    """Status and text of an answer of the admin port."""
    connection = http.client.HTTPConnection(gateway.address, 9090, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def pods(*arguments):
    return subprocess.run([ROOT / "scripts" / "pods", *arguments], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def running(images):
    """scripts/pods run, its port and its folder, once both pods are ready."""
    command = [ROOT / "scripts" / "pods", "run", OVERLAY, "--images", images]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        text = ""
        for line in process.stdout:
            text += line
            if line.startswith("Ctrl-C"):
                break
        port = re.search(r"http://127\.0\.0\.1:(\d+)/v1", text)
        assert port, text
        yield process, int(port[1]), Path(re.search(LOGS, text)[1])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def processes_below(folder):
    """What runs in containers whose mounts are in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder.resolve()) in (process / "mounts").read_text():
                found.append((process / "cmdline").read_bytes())
    return found


def until(condition, what):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {DEADLINE} s for {what}")
        time.sleep(0.02)


def load_tests(loader, _tests, _pattern):
    """Whoever discovers this file gets what starts outside."""
    return loader.loadTestsFromTestCase(Outside)


if __name__ == "__main__":
    if sys.argv[1:2] == [INSIDE]:
        IMAGES = Path(sys.argv.pop(2))
        sys.argv.remove(INSIDE)
        RENDERED = render(OVERLAY)
        setup.add_secrets(RENDERED)
        ALL = {folder.name: render(folder.name) for folder in sorted((ROOT / "manifests" / "overlays").iterdir())}
        MODELS = {name: setup.fetch(name) for name in ("model", "tiny-model")}
        FOLDER = Path(tempfile.mkdtemp(prefix="test-pods-", dir=ROOT / ".cache"))
        sandbox.enter(ended=lambda: shutil.rmtree(FOLDER, ignore_errors=True))
        del load_tests, Outside
    unittest.main()

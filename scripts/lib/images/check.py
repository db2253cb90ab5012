"""Runs both images as OpenShift would, together: a chat goes through the gateway to llama-server.

Takes the folder of both unpacked images. Uses the ports of the images, so it wants a network of its own.
"""

import json
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from . import ROOT, Failed, output, say
from .container import USER, Container

UPSTREAM_KEY = "upstream-key-of-the-check"
GATEWAY_CONFIG = '[upstream]\napi_key_file = "/run/secrets/upstream/api-key"\n'
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
MODEL = {"MODEL_REPO": "check/tiny-GGUF", "QUANT_TYPE": "F32", "CTX_SIZE": "2048", "THREADS": "1"}


def both(images):
    """Fails at the first thing that is not as it should be."""
    server_image, gateway_image = images / "kimi-k2-llamacpp", images / "kimi-k2-gateway"
    for image in (server_image, gateway_image):
        description(image)
    bill_of_materials(server_image)
    with tempfile.TemporaryDirectory(prefix="images-") as work:
        files = Files(Path(work))
        fetcher(gateway_image)
        with Container(server_image, files.of_server(), {**MODEL, "DRAIN_MIN_SECONDS": "0"}) as server:
            server.wait_until(lambda: status("http://127.0.0.1:8001/health") == 200, "served its model", 120)
            confined(server)
            with Container(gateway_image, files.of_gateway()) as gateway:
                gateway.wait_until(lambda: status("http://127.0.0.1:9090/livez") == 200, "answered /livez", 30)
                gateway.wait_until(lambda: status("http://127.0.0.1:9090/readyz") == 200, "found llama-server", 30)
                chat(gateway)
                gateway_ends(gateway)
            server_ends(server)


class Files:
    """What a pod mounts."""

    def __init__(self, folder):
        self.key, self.config, self.models, self.data = (
            folder / name for name in ("api-key", "gateway.toml", "models", "data")
        )
        self.key.write_text(UPSTREAM_KEY)
        self.config.write_text(GATEWAY_CONFIG)
        quantisation = self.models / "check--tiny-GGUF" / "F32"
        quantisation.mkdir(parents=True)
        shutil.copy(output(ROOT / "scripts" / "fetch", "tiny-model").strip(), quantisation / "tiny.gguf")
        # As a volume is: group 0 may write, the user is nobody's.
        self.data.mkdir()
        self.data.chmod(0o770)

    def of_server(self):
        return [(self.key, "/run/secrets/upstream/api-key", "ro"), (self.models, "/models", "ro")]

    def of_gateway(self):
        return [
            (self.key, "/run/secrets/upstream/api-key", "ro"),
            (self.config, "/etc/llama-gateway/gateway.toml", "ro"),
            (self.data, "/var/lib/llama-gateway", "rw"),
        ]


def confined(server):
    """That this check runs images as it says."""
    told = dict(line.split(":", 1) for line in server.execute("cat", "/proc/1/status").splitlines())
    expect("the user of llama-server is", told["Uid"].split()[0], str(USER))
    expect("its group is", told["Gid"].split()[0], "0")
    expect("its capabilities are", {int(told[kind], 16) for kind in ("CapBnd", "CapEff", "CapPrm")}, {0})
    root = next(line.split() for line in server.execute("cat", "/proc/1/mounts").splitlines() if " / " in line)
    expect("its root's first mount option is", root[3].split(",")[0], "ro")
    say(f"llama-server runs as user {USER} of group 0, without capabilities, on a read-only root")


def description(image):
    """User, labels and version, as the cluster and the registry read them."""
    config = json.loads((image / "image.json").read_text())
    expect(f"{image.name} has the user", config["User"], "65532:0")
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    expect(f"{image.name} has the version of Cargo.toml", labels["version"], version)
    expect(f"{image.name} has the title", labels["title"], image.name)
    # The group of whatever user OpenShift chooses may write there, if no volume is mounted.
    for folder in image.glob("rootfs/var/lib/llama-gateway"):
        expect(f"{folder.name} has the mode", oct(folder.stat().st_mode & 0o777), "0o770")
    for label in ("description", "revision", "source", "licenses"):
        expect(f"{image.name} has the label {label}", bool(labels.get(label)), True)


def bill_of_materials(image):
    bill = json.loads((image / "rootfs" / "opt" / "llama.cpp" / "sbom.cdx.json").read_text())
    names = [component["name"] for component in bill["components"]]
    expect("the bill of materials begins with", names[0], "llama.cpp")
    release = bill["components"][0]["version"]
    labels = json.loads((image / "image.json").read_text())["Labels"]
    told = labels["org.opencontainers.image.description"]
    expect(f"the label {told!r} names {release}", release in told.replace(",", "").split(), True)
    vendored = {"cpp-httplib", "nlohmann-json", "miniaudio", "stb_image", "xxHash"}
    expect("it lists the vendored libraries", vendored <= set(names), True)
    say(f"kimi-k2-llamacpp: {release}, with {', '.join(names[1:])}")


def fetcher(image):
    with Container(image, command=["/usr/local/bin/model-fetcher", "--help"]) as container:
        expect("model-fetcher --help ends with", container.wait(30), 0)


def chat(gateway):
    # No flags: the image says where the data is.
    key = gateway.execute("/usr/local/bin/llama-gateway", "keys", "create", "--tenant", "check").split()[-1]
    answer = output(
        "curl", "--silent", "--show-error", "--max-time", "60", "http://127.0.0.1:8080/v1/chat/completions",
        "--header", f"Authorization: Bearer {key}", "--data", json.dumps(CHAT),
    )  # fmt: skip
    usage = json.loads(answer).get("usage") or {}
    expect(f"the chat's answer ({answer}) counts its tokens", usage.get("completion_tokens"), CHAT["max_tokens"])
    say(f"a chat went through both images: {usage['prompt_tokens']} tokens read, {usage['completion_tokens']} written")


def gateway_ends(gateway):
    gateway.signal(signal.SIGTERM)
    expect("the gateway ends with", gateway.wait(30), 0)


def server_ends(server):
    """As a pod does: first the preStop hook, then SIGTERM."""
    kind, *command = server.config["Healthcheck"]["Test"]
    expect("the health check is a command", kind, "CMD")
    server.execute(*command)
    server.execute("/usr/local/bin/drain.sh")
    server.signal(signal.SIGTERM)
    server.wait(30)


def status(url):
    command = ["curl", "--silent", "--max-time", "5", "--output", "/dev/null", "--write-out", "%{http_code}", url]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout)


def expect(what, found, wanted):
    if found != wanted:
        raise Failed(f"{what} {found!r}, not {wanted!r}")

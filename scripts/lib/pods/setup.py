"""What stands around an overlay in a cluster: secrets, a filled volume, a way in.

Takes a rendered manifest; adds what scripts/deploy.sh and others would have brought.
"""

import base64
import http.client
import secrets
import shutil
import socket
import subprocess
import threading

from . import Failed
from .manifest import ROOT

# Those that scripts/deploy.sh creates with random content, since secrets are not part of the set.
GENERATED_SECRETS = {"kimi-k2-upstream-key": "api-key", "kimi-k2-gateway-admin-key": "key"}
MODELS_CLAIM = "kimi-k2-gguf-cache"
PIPE_BYTES = 65536


def add_secrets(manifest):
    for name, key in GENERATED_SECRETS.items():
        value = base64.b64encode(secrets.token_hex(24).encode()).decode()
        manifest.objects.append({"kind": "Secret", "metadata": {"name": name}, "data": {key: value}})


def fetch(what):
    """The path of something that scripts/fetch provides."""
    run = subprocess.run([ROOT / "scripts" / "fetch", what], stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        raise Failed(f"without {what} there is nothing to run: see above")
    return run.stdout.strip()


def fill_models(manifest, claims, model):
    """Puts a model where the manifest's parameters look for theirs, as one fills a volume for use without a network."""
    config = manifest.get("ConfigMap", "kimi-k2-llamacpp-config")["data"]
    quant = config["QUANT_TYPE"]
    folder = claims / MODELS_CLAIM / config["MODEL_REPO"].replace("/", "--") / quant
    folder.mkdir(parents=True)
    # A copy, since the pod changes owner and mode.
    shutil.copy(model, folder / f"{config['MODEL_REPO'].split('/')[1]}-{quant}.gguf")


def answers(port, path):
    """Whether a port here answers a path with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def listen(port):
    """A socket at a loopback port of the machine, or at any other if that one is taken."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return socket.create_server(("127.0.0.1", 0))


def forward(listener, port):
    """Whoever connects to the listener, which may belong to another network namespace, gets to the port here."""
    def serve():
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", port))
            except OSError:
                client.close()
                continue
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=copy, args=(one, other), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


def copy(source, target):
    try:
        while data := source.recv(PIPE_BYTES):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # Whoever broke off has to be noticed on the other side, too.
        for one in (source, target):
            one.close()

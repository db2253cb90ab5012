"""Builds both images with buildah and unpacks them.

The final stages are built as their Containerfiles say. What a registry would have is replaced: the base images by
folders of this machine's files, and the stage that compiles llama-server for CUDA by the same script's CPU build.
The stage that compiles the gateway is run as written, too, in this machine's toolchain, but little optimised.

An unpacked image is a folder with `rootfs/` and `image.json`: user, environment, entrypoint and so on, as Docker
writes them.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from . import CACHE, ROOT, Failed, bases, output, run, say

BUILD_SCRIPT = ROOT / "server-image" / "build-llama-server.sh"
PIN = ROOT / "server-image" / "llama.cpp.pin"


def unpack_both(folder):
    """Makes `folder/kimi-k2-llamacpp` and `folder/kimi-k2-gateway`."""
    check_tools()
    with Buildah() as buildah:
        for name, build in (("kimi-k2-llamacpp", build_server), ("kimi-k2-gateway", build_gateway)):
            image = build(buildah)
            buildah.unpack(image, folder / name)
            say(f"unpacked {folder / name}")


def check_tools():
    if os.geteuid() != 0:
        raise Failed("images are built by root: run it with sudo")
    for tool, package in (("buildah", "buildah"), ("curl", "curl")):
        if shutil.which(tool) is None:
            raise Failed(f"{tool} is missing: apt-get install {package}")


def compiled_llama_server():
    """A stage with /opt/llama.cpp. Compiled once for each pin and build script: that takes minutes."""
    key = hashlib.sha256(PIN.read_bytes() + BUILD_SCRIPT.read_bytes()).hexdigest()[:12]
    stage = CACHE / f"llama-server-{key}"
    installed = stage / "opt" / "llama.cpp"
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "llama-server.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits, and finds it
        if not installed.exists():
            source = output(ROOT / "scripts" / "fetch", "llama-cpp-source").strip()
            say("compiling llama-server for the CPU; it is kept, so this takes its minutes once ...")
            run(BUILD_SCRIPT, "--cpu", "--quick", "--source", source, "--output", installed)
    say(f"llama-server is {installed}/bin/llama-server")
    return stage


def build_server(buildah):
    stage = compiled_llama_server()
    base = buildah.from_scratch("server", lambda folder: bases.server(folder, stage / "opt" / "llama.cpp" / "bin"))
    contexts = {"build": stage, "base": f"container-image://{base}"}
    return buildah.build("server-image/Containerfile", contexts=contexts)


def build_gateway(buildah):
    environment, volumes = bases.rust()
    rust = buildah.from_scratch("rust", bases.skeleton, environment)
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
    target.mkdir(exist_ok=True)
    say("compiling the gateway and the model fetcher ...")
    volumes.append(f"{target}:/build/target")
    base = buildah.from_scratch("gateway", bases.gateway)
    arguments = {"RUST_IMAGE": rust, "RUNTIME_IMAGE": base, "CARGO_PROFILE": "dev"}
    return buildah.build("gateway/Containerfile", arguments=arguments, volumes=volumes)


class Buildah:
    """A storage of its own, so that nothing is left behind."""

    def __enter__(self):
        CACHE.mkdir(exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(dir=CACHE, prefix="tmp-images-"))
        storage = ["--root", self.folder / "storage", "--runroot", self.folder / "run", "--storage-driver", "vfs"]
        self.command = ["buildah", *storage]
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def from_scratch(self, name, fill, environment=None):
        """An image of what `fill(folder)` puts into a folder."""
        folder = self.folder / name
        folder.mkdir()
        fill(folder)
        lines = ["FROM scratch", "COPY . /", *(f"ENV {key}={value}" for key, value in (environment or {}).items())]
        containerfile = self.folder / f"{name}.Containerfile"
        containerfile.write_text("\n".join(lines) + "\n")
        image = f"localhost/{name}:here"
        self.bud("--quiet", "--tag", image, "--file", containerfile, folder)
        return image

    def build(self, containerfile, contexts=None, arguments=None, volumes=()):
        image = f"localhost/{Path(containerfile).parent.name}:built"
        options = ["--tag", image, "--file", ROOT / containerfile]
        options += [f"--build-context={stage}={where}" for stage, where in (contexts or {}).items()]
        options += [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
        options += [f"--volume={volume}" for volume in volumes]
        self.bud(*options, ROOT)
        return image

    def bud(self, *options):
        # Docker's format, as OpenShift builds: the other one has no health check.
        fixed = ["--isolation", "chroot", "--format", "docker", "--pull-never", "--layers=false"]
        run(*self.command, "bud", *fixed, *options)

    def unpack(self, image, folder):
        container = output(*self.command, "from", "--pull-never", image).strip()
        mounted = output(*self.command, "mount", container).strip()
        folder.mkdir(parents=True)
        run("cp", "--archive", mounted, folder / "rootfs")
        config = json.loads(output(*self.command, "inspect", "--type", "image", image))["Docker"]["config"]
        (folder / "image.json").write_text(json.dumps(config, indent=2) + "\n")

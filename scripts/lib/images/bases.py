"""Base images without a registry: the files of this machine that the real ones are needed for.

Gives folders to build an image `FROM scratch` of.
"""

import os
import shutil
import subprocess
from pathlib import Path

from . import Failed, output

# What entrypoint.sh, drain.sh and the health check call.
SERVER_PROGRAMS = (
    "awk", "bash", "cat", "curl", "env", "grep", "head", "id", "ls", "mktemp", "nproc", "printf", "sed", "sleep",
    "stat", "tail", "timeout", "tr", "wc",
)  # fmt: skip


def server(folder, llama_server):
    """Stands for the CUDA runtime image, after its `apt-get install`."""
    skeleton(folder)
    libraries(folder, *sorted(llama_server.glob("*.so")), llama_server / "llama-server")
    for name in SERVER_PROGRAMS:
        program(folder, name)


def gateway(folder):
    """Stands for the distroless image: the C library, and no shell."""
    skeleton(folder)
    # The compiler needs what every Rust program does.
    libraries(folder, toolchain() / "bin" / "rustc")


def rust():
    """What the Rust image has: this machine's toolchain and C compiler, and the crates that it has downloaded.

    All at the same paths as here, so that Cargo takes what was compiled outside, too.
    """
    crates = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    crates.mkdir(exist_ok=True)
    readable = ("/usr", "/etc/alternatives", "/etc/ssl", toolchain())
    environment = {"PATH": f"{toolchain()}/bin:/usr/bin:/bin", "CARGO_HOME": str(crates)}
    return environment, [*(f"{path}:{path}:ro" for path in readable), f"{crates}:{crates}"]


def toolchain():
    return Path(output("rustc", "--print", "sysroot").strip())


def skeleton(folder):
    for name in ("dev", "etc", "proc", "sys", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "var"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (folder / name).symlink_to(f"usr/{name}")
    (folder / "tmp").mkdir(mode=0o777)
    (folder / "tmp").chmod(0o1777)
    (folder / "etc" / "passwd").write_text("root:x:0:0:root:/root:/sbin/nologin\n")
    (folder / "etc" / "group").write_text("root:x:0:\n")


def program(folder, name):
    path = shutil.which(name, path="/usr/bin:/bin")
    if path is None:
        raise Failed(f"{name} is missing in /usr/bin: install it")
    copy(folder, Path(path))
    libraries(folder, Path(path))


def libraries(folder, *files):
    for file in files:
        # Not every library needs others: ldd fails for a static one.
        done = subprocess.run(["ldd", file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        for line in done.stdout.splitlines():
            if "not found" in line:
                raise Failed(f"{file} needs {line.strip()}: install that library")
            paths = [word for word in line.split() if word.startswith("/")]
            if paths and not paths[0].startswith(str(file.parent) + "/"):
                copy(folder, Path(paths[0]))


def copy(folder, path):
    """Under the name by which it is looked for, whatever links there are on this machine."""
    target = folder / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(path.resolve(), target)

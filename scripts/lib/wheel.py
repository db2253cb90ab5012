"""One pinned PyPI package, downloaded by pip, checked by its hash and unpacked below `.cache/`.

Takes: name, version, sha256 and size of a wheel, or of a source package.
Gives: the folder it is unpacked in. Progress goes to stderr.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
FORMS = {"wheel": (".whl", "zip"), "source": (".tar.gz", "gztar")}


class Missing(Exception):
    """Something cannot be had here; the text says what to do about it."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def unpacked(name, version, sha256, megabytes, check=None, kind="wheel"):
    """Returns the folder of the unpacked package, after downloading it if it is not there yet.

    `check(folder)` may raise `Missing` while the folder is still temporary. The folder gets its
    final name last, so that one that exists is whole, also when a run was interrupted.
    """
    folder = CACHE / f"{name}-{version}"
    if folder.is_dir():
        return folder
    with temporary() as work:
        download(name, version, sha256, megabytes, work, kind)
        suffix, form = FORMS[kind]
        (archive,) = work.glob(f"*{suffix}")
        fresh = work / "unpacked"
        shutil.unpack_archive(archive, fresh, form)
        if check:
            check(fresh)
        keep(fresh, folder)
    return folder


def temporary():
    """A working folder beside the results, so that renaming out of it is atomic."""
    CACHE.mkdir(exist_ok=True)
    return TemporaryPath(dir=CACHE, prefix="tmp-")


class TemporaryPath(tempfile.TemporaryDirectory):
    def __enter__(self):
        return Path(super().__enter__())


def keep(fresh, final):
    """Renames `fresh` to `final`, unless another run was quicker: both hold the same."""
    try:
        os.rename(fresh, final)
    except OSError:
        if not final.exists():
            raise


def download(name, version, sha256, megabytes, work, kind):
    requirement = f"{name}=={version}"
    say(f"downloading {requirement} from the Python package index ({megabytes} MB) ...")
    pinned = work / "requirements.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command = [*pip(), "download", "--no-deps", "--require-hashes"]
    # Of a source package, pip asks the package's own build tools for its metadata; these may be wheels.
    command += ["--only-binary=:all:"] if kind == "wheel" else ["--no-binary", name]
    command += ["--disable-pip-version-check", "--dest", str(work), "--requirement", str(pinned)]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise Missing(f"pip could not download {requirement}: its message is above")


def pip():
    """The command of a pip: this Python's own, else that of a virtual environment."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    python = CACHE / "venv" / "bin" / "python"
    if not python.exists():
        made = [sys.executable, "-m", "venv", str(CACHE / "venv")]
        if subprocess.run(made, stdout=sys.stderr, check=False).returncode != 0:
            shutil.rmtree(CACHE / "venv", ignore_errors=True)
            raise Missing("pip is missing: install python3-pip or python3-venv")
    return [str(python), "-m", "pip"]

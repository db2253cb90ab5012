"""Both images on a machine without a registry: compiled, built and unpacked."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache"


class Failed(Exception):
    """Something is missing or wrong; the text says what, and ends with what to do."""


def say(text):
    print(text, flush=True)


def run(*command, **options):
    """Runs a command whose output goes to ours."""
    sys.stdout.flush()
    if subprocess.run([str(word) for word in command], check=False, **options).returncode != 0:
        raise Failed(f"{command[0]} failed: its messages are above, the command was {' '.join(map(str, command))}")


def output(*command, **options):
    """Runs a command and returns what it writes to stdout."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode != 0:
        raise Failed(f"{command[0]} failed: its messages are above, the command was {' '.join(map(str, command))}")
    return done.stdout

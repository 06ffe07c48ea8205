"""What the tests take from npm: exactly what `integration/node/package-lock.json` pins, and no script of it is run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_SOURCE: Final = Path(__file__).parent / "node"
_OFFLINE: Final = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|ETIMEDOUT|ENOTCACHED")


def install(directory: Path) -> Path:
    """Install into a new directory, our own scripts too, and return it; skip where npm or the network is missing."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node, or no npm: apt-get install --no-install-recommends nodejs npm")
    shutil.copytree(_SOURCE, directory, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=directory,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode and _OFFLINE.search(done.stderr):
        pytest.skip("npm reaches no registry")
    assert done.returncode == 0, done.stderr
    return directory

"""The Debian package, built once for all tests that install it."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from keydist import __version__

_REPOSITORY: Final = Path(__file__).parent.parent
_PYTHON: Final = "/usr/bin/python3"


def _skip_unless_possible() -> None:
    """Skip the test where the package cannot be built or installed, with the reason."""
    why = ""
    if os.geteuid() != 0:
        why = "not root: only root installs packages"
    elif shutil.which("dpkg-deb") is None:
        why = "no dpkg-deb: this is no Debian"
    elif subprocess.run([_PYTHON, "-c", "import ensurepip"], check=False, capture_output=True).returncode:
        why = f"no {_PYTHON} with venv: apt-get install python3-venv"
    elif subprocess.run(["dpkg", "-s", "systemd"], check=False, capture_output=True).returncode:
        why = "no systemd, which the package depends on"
    elif subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        why = "no right to mount"
    if why:
        pytest.skip(why)


@cache
def build_package() -> Path:
    """Build the package as `make deb` does, once; skip the test where that cannot be done."""
    _skip_unless_possible()
    done = subprocess.run(["make", "deb"], cwd=_REPOSITORY, capture_output=True, text=True, check=False, timeout=540)
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = (_REPOSITORY / "dist").glob(f"keydist_{__version__}_*.deb")
    return found

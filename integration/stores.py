"""What servers of a `Cluster` stored, as a machine room treats it: copied, put back, on a disk that fills up.

    with SmallDisks(cluster) as disks, cluster:
        disks.fill(0)
        disks.free(0)

A small disk is a tmpfs under the store of each server, made before the cluster starts; it needs root.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

import pytest

from integration.cluster import Cluster

SIZE: Final = 16 * 2**20
_FILLER: Final = "filler"


def copy_store(cluster: Cluster, number: int, to: Path) -> None:
    """Copy what a server has stored. Of one that runs it is what a disk's snapshot is: not of one moment."""
    to.mkdir(parents=True)
    subprocess.run(["cp", "-a", f"{cluster.store_dir(number)}/.", str(to)], capture_output=True, check=False)
    (to / _FILLER).unlink(missing_ok=True)


def put_store_back(cluster: Cluster, number: int, copy: Path) -> None:
    """Kill a server and put an earlier copy in the place of what it stored. It stays down."""
    cluster.wipe(number)
    shutil.copytree(copy, cluster.store_dir(number), dirs_exist_ok=True)


class SmallDisks:
    """One small disk under each server's store."""

    def __init__(self, cluster: Cluster, *, servers: int = 3) -> None:
        if os.geteuid() != 0:
            pytest.skip("disks that fill up take root")
        self._places = [cluster.store_dir(number) for number in range(servers)]

    def __enter__(self) -> Self:
        for place in self._places:
            place.mkdir(parents=True)
            _run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "keydist-test", str(place))
        return self

    def __exit__(self, *_: object) -> None:
        for place in self._places:
            _run("umount", str(place))

    def fill(self, number: int) -> None:
        """Leave no byte free on a server's disk."""
        place = self._places[number]
        file = os.open(place / _FILLER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            while True:
                free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
                os.write(file, b"\0" * max(free, 1))
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
        finally:
            os.close(file)

    def free(self, number: int) -> None:
        """Give a server's disk its room back."""
        (self._places[number] / _FILLER).unlink(missing_ok=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)

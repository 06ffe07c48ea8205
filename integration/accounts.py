"""The users of a test cluster: their seeds on disk, and their public nkeys for the accounts that keydist recommends."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from keydist.adapters.nats.accounts import User, Users
from keydist.adapters.nats.credentials import new_seed, public_nkey

OPERATOR: Final = "op"


class Ports(NamedTuple):
    """The loopback ports of one server: clients, the other servers, HTTP monitoring."""

    client: int
    route: int
    monitor: int


def write_users(directory: Path, *, leaders: Iterable[str], followers: Iterable[str]) -> Users:
    """Write `<directory>/<name>.nk` (0600) for each user and for `OPERATOR`, and return all with their public nkeys."""
    directory.mkdir(parents=True, exist_ok=True)

    def user(name: str) -> User:
        seed = new_seed(os.urandom)
        file = os.open(directory / f"{name}.nk", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as out:
            out.write(seed)
        return User(name, public_nkey(seed))

    return Users(user(OPERATOR), tuple(map(user, leaders)), tuple(map(user, followers)))

"""Users for the accounts that keydist recommends, and one more who may do anything, to set up and to take away."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from keydist.adapters.nats.accounts import KEYS, User, Users
from keydist.adapters.nats.credentials import new_seed, public_nkey
from tests.material import noise

ADMIN: Final = "admin"


def write_user(directory: Path, name: str) -> User:
    """Write the seed `<directory>/<name>` (0400) of a user, the same one for the same name."""
    seed = new_seed(lambda size: noise(name, size))
    (directory / name).write_text(seed, encoding="ascii")
    (directory / name).chmod(0o400)
    return User(name, public_nkey(seed))


def users_in(directory: Path, *, leaders: Iterable[str], followers: Iterable[str]) -> Users:
    """Write the seeds of these users, and of the operator `op`."""
    one, *others = (write_user(directory, name) for name in ("op", *leaders))
    return Users(one, tuple(others), tuple(write_user(directory, name) for name in followers))


def with_admin(made: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Put a user who may do anything into the account of the keys."""
    made[KEYS]["users"].value.append({"nkey": write_user(directory, ADMIN).nkey})
    return made

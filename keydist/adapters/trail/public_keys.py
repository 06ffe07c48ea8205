"""The public keys that a node keeps for ever, by kid: what audit records are checked with, years later."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from keydist.adapters.disk.installing import PUBLIC
from keydist.adapters.disk.posix import Directory
from keydist.adapters.disk.system import System
from keydist.core.audit_chain import Verifying
from keydist.core.jwk import parse_public_jwk
from keydist.errors import MalformedError

if TYPE_CHECKING:
    from keydist.core.audit_chain import KeyOf

_MOST: Final = 4096
_READABLE: Final = 0o755


def kept_keys(state_dir: str) -> KeyOf:
    """Return the look-up of a state directory's public keys; what is missing or altered is not at hand.

    Raises `UnsafeFileError`, `WrongUserError` and `DiskError` when it is used.
    """

    @cache
    def key_of(kid: str) -> Verifying | None:
        root = Directory.open_root(state_dir, mode=_READABLE, system=System())
        if root is None:
            return None
        with root:
            public = root.sub(PUBLIC, mode=_READABLE)
            if public is None:
                return None
            with public:
                raw = public.read(f"{kid}.jwk", most=_MOST)
        try:
            return None if raw is None else Verifying(*parse_public_jwk(raw.rstrip(b"\n"), kid))
        except MalformedError:
            return None

    return key_of

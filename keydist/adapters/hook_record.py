"""What each hook was last told, kept in `<state_dir>/hooks/told.json` so that a restart neither forgets nor repeats.

A directory of its own: its temporary file is not among those that an installation sweeps away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from keydist.adapters.config_hooks import Hook
from keydist.adapters.disk.posix import Directory
from keydist.adapters.disk.reading import HOOKS
from keydist.adapters.disk.system import System
from keydist.core.strict import exact_members, is_hex, parse_object, serialise
from keydist.errors import DiskError, MalformedError

FILE: Final = "told.json"

_MOST: Final = 65_536
_ID_DIGITS: Final = 64
_MAX_MARK: Final = 128
_ROOT_MODE: Final = 0o750  # the group's, if any, was let in or refused by those who keep the keyset
_OWN_MODE: Final = 0o700


def hook_id(hook: Hook) -> str:
    """Return what names a hook over restarts: SHA-256, in hex, of what it does on what."""
    return hashlib.sha256(json.dumps(hook.action()).encode()).hexdigest()


class HookRecord:
    """The file; calls are synchronous and short. Raises what `posix.Directory` does, and `MalformedError`."""

    def __init__(self, state_dir: str, *, system: System | None = None) -> None:
        self._path = state_dir
        self._system = system or System()

    def read(self) -> dict[str, str]:
        """Return what was last told, by the hook's id; empty where nothing is kept."""
        root = Directory.open_root(self._path, mode=_ROOT_MODE, system=self._system)
        if root is None:
            return {}
        with root:
            own = root.sub(HOOKS, mode=_OWN_MODE)
            if own is None:
                return {}
            with own:
                raw = own.read(FILE, most=_MOST, private=True)
        return {} if raw is None else _parse(raw)

    def write(self, told: Mapping[str, str]) -> None:
        """Keep what was told, durably."""
        root = Directory.open_root(self._path, mode=_ROOT_MODE, system=self._system)
        if root is None:
            raise DiskError(f"{self._path} went away", fix="run keydist bootstrap")
        with root, root.make(HOOKS, mode=_OWN_MODE, gid=None) as own:
            own.replace(FILE, serialise({"told": dict(told)}), mode=0o600)


def _parse(raw: bytes) -> dict[str, str]:
    value = parse_object(raw, FILE)
    exact_members(value, frozenset({"told"}), frozenset(), FILE)
    told = value["told"]
    if not isinstance(told, dict) or not all(is_hex(key, _ID_DIGITS) and _is_mark(mark) for key, mark in told.items()):
        raise MalformedError(f"{FILE} is not well formed", expected="ids of hooks and what they were told")
    return told


def _is_mark(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_MARK and value.isascii()

"""What runs when the key changes: each hook by a worker of its own, repeated until it was told the latest state.

Level-triggered: a worker compares what its hook was last told with what is so now, never runs twice at once, and
runs once more where a change came meanwhile. What was told is kept on disk after the hook succeeded, so a hook is
told at least once, and after a crash in between, again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from keydist.adapters.config_hooks import Event, Hook
from keydist.adapters.hook_process import run_program
from keydist.adapters.hook_record import HookRecord, hook_id
from keydist.errors import KeydistError
from keydist.ports import Entropy, Journal

AGAIN_SECONDS: Final = 300.0
"""How long after its retries a hook that failed is tried anew."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_SYSTEMCTL: Final = "/usr/bin/systemctl"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HookFiles(NamedTuple):
    """What is live, and the paths under which hooks find it; `jwks_digest` is the SHA-256 of the JWK Set, in hex."""

    epoch: int
    kid: str
    live: str
    pem: str
    jwks: str
    jwks_digest: str

    def mark(self, event: Event) -> str:
        """Return what differs after each event of a kind."""
        return mark_of(event, kid=self.kid, jwks_digest=self.jwks_digest)


def mark_of(event: Event, *, kid: str, jwks_digest: str) -> str:
    """Return what a hook was told, once it was told of an event; see `HookFiles`."""
    return kid if event == "key" else jwks_digest


def argv_of(hook: Hook) -> tuple[str, ...]:
    """Return the program that a hook runs, with its arguments."""
    if hook.run:
        return hook.run
    # --kill-who, not --kill-whom: what systemd before 252 knows, and later ones still take.
    return (_SYSTEMCTL, "--no-ask-password", "kill", "--kill-who=main", f"--signal={hook.signal}", str(hook.unit))


def environ_of(event: Event, files: HookFiles) -> dict[str, str]:
    """Return the whole environment of a hook: nothing of this process's own, which may name secrets."""
    return {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "KEYDIST_EVENT": event,
        "KEYDIST_EPOCH": str(files.epoch),
        "KEYDIST_KID": files.kid,
        "KEYDIST_LIVE": files.live,
        "KEYDIST_PEM": files.pem,
        "KEYDIST_JWKS": files.jwks,
    }


def name_of(hook: Hook) -> str:
    """Return how logs name a hook; not by its arguments."""
    return hook.run[0] if hook.run else f"{hook.signal} to {hook.unit}"


async def run_hook(
    hook: Hook, *, files: HookFiles, log: Journal, entropy: Entropy, superseded: asyncio.Event | None = None
) -> bool:
    """Run a hook until it succeeds, its retries are over or `superseded` is set; tell whether it succeeded.

    Each attempt has the hook's timeout; pauses grow exponentially, with full jitter. One event an attempt is logged.
    """
    name, attempts = name_of(hook), hook.retries + 1
    for attempt in range(1, attempts + 1):
        failure = await run_program(
            argv_of(hook),
            environ=environ_of(hook.on, files),
            seconds=hook.timeout,
            told=lambda line: log.event("hook-output", hook=name, line=line),
        )
        told: dict[str, Any] = {"hook": name, "on": hook.on, "epoch": files.epoch, "attempt": attempt, "of": attempts}
        if not failure:
            log.event("hook-done", **told)
            return True
        fix: dict[str, Any] = {"fix": _fix(hook)} if hook.unit else {}
        log.event("hook-failed", level="error" if attempt == attempts else "warning", **told, failure=failure, **fix)
        if attempt < attempts and await _is_set(superseded or asyncio.Event(), within=_pause(attempt, entropy)):
            return False
    return False


def _fix(hook: Hook) -> str:
    instance = str(hook.unit).removesuffix(".service")
    return f"let the service manager do it, which may: systemctl enable --now keydist-reload@{instance}.path"


def _pause(attempt: int, entropy: Entropy) -> float:
    most = min(_LONGEST_PAUSE, _FIRST_PAUSE * (1 << (attempt - 1)))
    return most * int.from_bytes(entropy.random(4), "big") / 2**32


async def _is_set(event: asyncio.Event, *, within: float | None) -> bool:
    try:
        async with asyncio.timeout(within):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Hooks:
    """The hooks of one node, in a state directory that exists."""

    def __init__(
        self, hooks: Sequence[Hook], *, state_dir: str, log: Journal, entropy: Entropy, again: float = AGAIN_SECONDS
    ) -> None:
        self._workers = [_Worker(hook) for hook in hooks]
        self._record = HookRecord(state_dir)
        self._log = log
        self._entropy = entropy
        self._again = again
        self._told: dict[str, str] = {}

    def changed(self, event: Event, files: HookFiles) -> None:
        """Say what is live now. The latest counts; a hook that was told this state already stays quiet."""
        for worker in self._workers:
            if worker.hook.on == event:
                worker.files = files
                worker.wake.set()

    def failing(self) -> tuple[str, ...]:
        """Return the names of the hooks whose last round failed; each is tried again."""
        return tuple(name_of(worker.hook) for worker in self._workers if worker.failed)

    async def run(self) -> None:
        """Tell hooks what changed, until cancelled; then none of their processes is left."""
        try:
            kept = self._record.read()
        except KeydistError as exc:
            self._log.event("hook-record-lost", level="warning", error=exc)
            kept = {}
        ids = {worker.id for worker in self._workers}
        self._told = {key: mark for key, mark in kept.items() if key in ids}
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(self._serve(worker))
            await asyncio.Event().wait()

    async def _serve(self, worker: _Worker) -> None:
        while True:
            await _is_set(worker.wake, within=self._again if worker.failed else None)
            worker.wake.clear()
            files = worker.files
            if files is None or self._told.get(worker.id) == (mark := files.mark(worker.hook.on)):
                worker.failed = False
                continue
            done = await run_hook(
                worker.hook, files=files, log=self._log, entropy=self._entropy, superseded=worker.wake
            )
            worker.failed = not done
            if done:
                self._keep(worker.id, mark)

    def _keep(self, key: str, mark: str) -> None:
        self._told[key] = mark
        try:
            self._record.write(self._told)
        except KeydistError as exc:
            self._log.event("hook-record-not-kept", level="warning", error=exc)


class _Worker:
    """One hook, what is live as far as it was said, and whether the last round failed."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.id = hook_id(hook)
        self.wake = asyncio.Event()
        self.files: HookFiles | None = None
        self.failed = False

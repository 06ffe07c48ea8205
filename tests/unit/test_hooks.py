"""Hooks: told at least once of the latest state, never twice at once, with nothing secret, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from keydist.adapters import hook_process
from keydist.adapters.config_hooks import Hook
from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.adapters.hook_process import MAX_LINES, MAX_OUTPUT, run_program
from keydist.adapters.hooks import HookFiles, Hooks, argv_of, run_hook
from keydist.core.envelope import Place
from tests.fakes.journal import RecordingJournal

FILES = HookFiles(
    epoch=7, kid="kid-a", live="/s/live", pem="/s/live/key.pem", jwks="/s/live/jwks.json", jwks_digest="aa" * 32
)
NEXT = FILES._replace(epoch=8, kid="kid-b")


class Draws:
    """An `Entropy` that draws the same byte for ever."""

    def __init__(self, byte: int = 0) -> None:
        self._byte = byte

    def random(self, size: int) -> bytes:
        return bytes([self._byte]) * size

    async def signing_key(self, alg: str, bits: int) -> bytes:
        raise NotImplementedError


def sh(script: str, *, on: str = "key", timeout: int = 20, retries: int = 0) -> Hook:
    assert on in ("key", "jwks")
    return Hook(on="key" if on == "key" else "jwks", run=("/bin/sh", "-c", script), timeout=timeout, retries=retries)


async def pause() -> None:
    """Let others go on for a moment."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.005):
            await asyncio.Event().wait()


async def until(what: Callable[[], object]) -> None:
    """Return when something is so."""
    async with asyncio.timeout(10):
        while not what():
            await pause()


def written(path: Path) -> int:
    """Return the number in a file, 0 as long as it is not there whole."""
    return int(path.read_text(encoding="utf-8")) if path.exists() and path.read_bytes().endswith(b"\n") else 0


def is_there(pid: int) -> bool:
    """Tell whether the system knows a process; it knows zombies."""
    return Path(f"/proc/{pid}").exists()


def is_gone(pid: int) -> bool:
    """Tell whether a process ended; one that is not our child may stay a zombie for ever, where init reaps none."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True


# --- one run of a program ---------------------------------------------------------------------------


async def run_sh(script: str, *, seconds: float = 20) -> tuple[str, list[str]]:
    lines: list[str] = []
    failure = await run_program(("/bin/sh", "-c", script), environ={}, seconds=seconds, told=lines.append)
    return failure, lines


ENDS = [
    ("exit 0", "", []),
    ("echo a; echo b >&2; printf c", "", ["a", "b", "c"]),
    ("exit 3", "ended with status 3", []),
    ("kill -HUP $$", "ended by SIGHUP", []),
    ("kill -40 $$", "ended by signal 40", []),
    ("cat; pwd; printf '\\n\\n\\377'", "", ["/", "\ufffd"]),
]


@pytest.mark.parametrize(("script", "failure", "lines"), ENDS, ids=[case[0] for case in ENDS])
async def test_how_a_program_ends(script: str, failure: str, lines: list[str]) -> None:
    assert await run_sh(script) == (failure, lines)


@pytest.mark.parametrize(
    ("name", "failure"),
    [("gone", "no such file or directory"), ("plain", "permission denied"), ("text", "exec format")],
)
async def test_a_program_that_cannot_be_started(tmp_path: Path, name: str, failure: str) -> None:
    (tmp_path / "plain").write_text("", encoding="utf-8")
    (tmp_path / "text").write_text("text", encoding="utf-8")
    (tmp_path / "text").chmod(0o755)
    told = await run_program((str(tmp_path / name),), environ={}, seconds=5, told=print)
    assert told.startswith(f"cannot be started: {failure}")


async def test_a_program_has_a_session_of_its_own() -> None:
    assert await run_sh("test $(cut -d' ' -f6 /proc/$$/stat) = $$") == ("", [])


@pytest.mark.parametrize(
    "script", [f"head -c {MAX_OUTPUT * 3} /dev/zero | tr '\\0' x", f"seq {MAX_LINES * 3}"], ids=["bytes", "lines"]
)
async def test_output_is_bounded_and_said_to_be_cut(script: str) -> None:
    failure, lines = await run_sh(script)
    assert failure == ""
    assert lines[-1].startswith("(cut: ")
    assert sum(map(len, lines[:-1])) <= MAX_OUTPUT
    assert 2 <= len(lines) <= MAX_LINES + 1


async def test_at_the_deadline_the_whole_group_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_process, "_GRACE_SECONDS", 0.2)
    script = f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/pid; wait; sleep 60"
    assert await run_sh(script, seconds=0.5) == ("did not end within 0.5 s", [])
    for name in ("child", "pid"):
        await until(partial(is_gone, written(tmp_path / name)))


async def test_the_deadline_is_told_to_the_program_first(tmp_path: Path) -> None:
    script = f"trap 'echo told; exit 0' TERM; : > {tmp_path}/up; while :; do sleep 0.05; done"
    failure, lines = await run_sh(script, seconds=1)
    assert (failure, lines[-1]) == ("did not end within 1 s", "told")


async def test_what_holds_the_output_after_the_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_process, "_LINGER_SECONDS", 0.1)
    assert await run_sh(f"sleep 60 & echo $! > {tmp_path}/child") == ("", [])
    await until(partial(is_gone, written(tmp_path / "child")))


async def test_what_was_started_apart_goes_on(tmp_path: Path) -> None:
    assert await run_sh(f"(sleep 0.3; : > {tmp_path}/done) >/dev/null 2>&1 &") == ("", [])
    await until((tmp_path / "done").exists)


async def test_after_a_cancellation_nothing_is_left(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/pid; wait"
    task = asyncio.get_running_loop().create_task(run_sh(script))
    await until(partial(written, tmp_path / "pid"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_there(written(tmp_path / "pid")), "not even a zombie"
    await until(partial(is_gone, written(tmp_path / "child")))


async def test_a_cancellation_while_it_starts_leaves_nothing_either(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/pid; wait"
    task = asyncio.get_running_loop().create_task(run_sh(script))
    for _ in range(3):
        await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop, no time
    while not written(tmp_path / "pid"):  # the loop does not turn meanwhile: asyncio is still connecting
        os.sched_yield()
    task.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not is_there(written(tmp_path / "pid"))
    await until(partial(is_gone, written(tmp_path / "child")))


# --- one hook ---------------------------------------------------------------------------------------


async def test_a_hook_is_given_paths_and_nothing_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    monkeypatch.setenv("KEYDIST_TOKEN_FILE", "/etc/keydist/token")
    log = RecordingJournal()
    assert await run_hook(Hook(on="jwks", run=("/usr/bin/env",)), files=FILES, log=log, entropy=Draws())
    given = dict(str(fields["line"]).split("=", 1) for fields in log.named("hook-output"))
    assert given == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "KEYDIST_EVENT": "jwks",
        "KEYDIST_EPOCH": "7",
        "KEYDIST_KID": "kid-a",
        "KEYDIST_LIVE": "/s/live",
        "KEYDIST_PEM": "/s/live/key.pem",
        "KEYDIST_JWKS": "/s/live/jwks.json",
    }
    told = {"hook": "/usr/bin/env", "on": "jwks", "epoch": 7, "attempt": 1, "of": 4}
    assert log.events[-1] == ("hook-done", "info", told)


async def test_attempts_follow_until_one_succeeds(tmp_path: Path) -> None:
    log = RecordingJournal()
    hook = sh(f"echo x >> {tmp_path}/n; test $(wc -l < {tmp_path}/n) = 3", retries=5)
    assert await run_hook(hook, files=FILES, log=log, entropy=Draws())
    assert [(event.name, event.level, event.fields["attempt"]) for event in log.events] == [
        ("hook-failed", "warning", 1),
        ("hook-failed", "warning", 2),
        ("hook-done", "info", 3),
    ]


async def test_the_last_failure_is_an_error() -> None:
    log = RecordingJournal()
    assert not await run_hook(sh("exit 9", retries=1), files=FILES, log=log, entropy=Draws())
    assert [(event.level, event.fields["failure"]) for event in log.events] == [
        ("warning", "ended with status 9"),
        ("error", "ended with status 9"),
    ]


async def test_a_later_change_ends_the_attempts() -> None:
    superseded = asyncio.Event()
    superseded.set()
    log = RecordingJournal()
    assert not await run_hook(sh("exit 9", retries=9), files=FILES, log=log, entropy=Draws(255), superseded=superseded)
    assert len(log.events) == 1


async def test_a_unit_is_signalled_by_the_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = Hook(on="key", signal="HUP", unit="app@1.service", retries=0)
    argv = ("/usr/bin/systemctl", "--no-ask-password", "kill", "--kill-who=main", "--signal=HUP", "app@1.service")
    assert argv_of(hook) == argv
    monkeypatch.setattr("keydist.adapters.hooks._SYSTEMCTL", "/bin/false")
    log = RecordingJournal()
    assert not await run_hook(hook, files=FILES, log=log, entropy=Draws())
    assert log.events[0].fields["hook"] == "HUP to app@1.service"
    assert str(log.events[0].fields["fix"]).endswith("systemctl enable --now keydist-reload@app@1.path")


# --- all hooks --------------------------------------------------------------------------------------


class Node:
    """A state directory, and hooks that append what they were told to a file."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir(mode=0o700)
        self.out = folder / "out"
        self.log = RecordingJournal()

    def hook(self, before: str = ":", *, on: str = "key", retries: int = 0) -> Hook:
        return sh(f"{before}; echo $KEYDIST_EVENT $KEYDIST_EPOCH >> {self.out}", on=on, retries=retries)

    @asynccontextmanager
    async def running(self, *hooks: Hook, again: float = 300, byte: int = 0) -> AsyncIterator[Hooks]:
        made = Hooks(hooks, state_dir=str(self.state), log=self.log, entropy=Draws(byte), again=again)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(made.run())
            yield made
            task.cancel()

    def told(self) -> list[str]:
        return self.out.read_text(encoding="utf-8").splitlines() if self.out.exists() else []

    async def kept(self, count: int) -> None:
        """Return when so many hooks succeeded, and what they were told is on disk."""
        await until(lambda: len(self.log.named("hook-done")) >= count)
        await pause()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_a_hook_is_told_once_over_restarts(node: Node) -> None:
    hook = node.hook()
    async with node.running(hook) as hooks:
        hooks.changed("key", FILES)
        await node.kept(1)
    async with node.running(hook._replace(timeout=9, retries=1)) as hooks:
        hooks.changed("key", FILES)
        hooks.changed("jwks", NEXT)
        await pause()
        hooks.changed("key", FILES._replace(epoch=8, jwks_digest="bb"))
        for _ in range(10):
            await pause()
        hooks.changed("key", NEXT)
        await node.kept(2)
    assert node.told() == ["key 7", "key 8"]
    record = node.state / "hooks/told.json"
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert stat.S_IMODE(record.parent.stat().st_mode) == 0o700


async def test_a_hook_that_did_not_succeed_before_a_stop_is_told_at_the_next_start(node: Node) -> None:
    started = node.state / "started"
    async with node.running(node.hook(f": > {started}; test -e {node.state}/go || sleep 60")) as hooks:
        hooks.changed("key", FILES)
        await until(started.exists)
    assert node.told() == []
    (node.state / "go").touch()
    async with node.running(node.hook(f": > {started}; test -e {node.state}/go || sleep 60")) as hooks:
        hooks.changed("key", FILES)
        await node.kept(1)
    assert node.told() == ["key 7"]


async def test_another_hook_has_not_been_told(node: Node) -> None:
    for count, hook in enumerate((node.hook(), node.hook("true"), node.hook(on="jwks")), start=1):
        async with node.running(hook) as hooks:
            hooks.changed("key", FILES)
            hooks.changed("jwks", FILES)
            await node.kept(count)
    assert node.told() == ["key 7", "key 7", "jwks 7"]


async def test_changes_during_a_run_are_one_more_run_with_the_latest(node: Node) -> None:
    busy, go = node.state / "busy", node.state / "go"
    hook = node.hook(f"mkdir {busy} || exit 1; while ! test -e {go}; do sleep 0.02; done; rmdir {busy}")
    async with node.running(hook) as hooks:
        hooks.changed("key", FILES)
        await until(busy.exists)
        for epoch in range(8, 30):
            hooks.changed("key", FILES._replace(epoch=epoch, kid=f"kid-{epoch}"))
        go.touch()
        await node.kept(2)
    assert node.told() == ["key 7", "key 29"]
    assert node.log.named("hook-failed") == []


async def test_a_change_does_not_wait_for_the_pause_after_a_failure(node: Node) -> None:
    # With the largest draws the pauses of ten retries would take minutes.
    async with node.running(node.hook("test $KEYDIST_EPOCH = 8 || exit 1", retries=10), byte=255) as hooks:
        hooks.changed("key", FILES)
        await until(lambda: node.log.named("hook-failed"))
        hooks.changed("key", NEXT)
        await node.kept(1)
    assert node.told() == ["key 8"]


async def test_a_hook_that_failed_is_tried_again_later(node: Node) -> None:
    go = node.state / "go"
    hook = node.hook(f"test -e {go} || exit 1")
    async with node.running(hook, again=0.05) as hooks:
        hooks.changed("key", FILES)
        await until(lambda: len(node.log.named("hook-failed")) >= 2)
        assert hooks.failing() == ("/bin/sh",)
        go.touch()
        await node.kept(1)
        await until((node.state / "hooks/told.json").exists)
        assert hooks.failing() == ()
    assert node.told() == ["key 7"]


async def test_one_hook_does_not_wait_for_another(node: Node) -> None:
    async with node.running(sh("sleep 60"), node.hook()) as hooks:
        hooks.changed("key", FILES)
        await node.kept(1)
    assert node.told() == ["key 7"]


DAMAGED = [b"", b"{}", b'{"told":[]}', b'{"told":{"x":"y"}}', b'{"told":{"' + b"a" * 64 + b'":1}}', b"x" * 70_000]


@pytest.mark.parametrize("raw", DAMAGED, ids=range(len(DAMAGED)))
async def test_a_damaged_record_is_said_and_the_hook_told_again(node: Node, raw: bytes) -> None:
    (node.state / "hooks").mkdir(mode=0o700)
    (node.state / "hooks/told.json").write_bytes(raw)
    (node.state / "hooks/told.json").chmod(0o600)
    for _ in range(2):
        async with node.running(node.hook()) as hooks:
            hooks.changed("key", FILES)
            await node.kept(1)
    assert node.told() == ["key 7"]
    assert len(node.log.named("hook-record-lost")) == 1


async def test_a_record_that_cannot_be_kept_is_said(node: Node) -> None:
    (node.state / "hooks").write_text("in the way", encoding="utf-8")
    async with node.running(node.hook()) as hooks:
        hooks.changed("key", FILES)
        await node.kept(1)
        hooks.changed("key", FILES)
    assert node.told() == ["key 7"]
    assert [event.name for event in node.log.events if event.level == "warning"] == [
        "hook-record-lost",
        "hook-record-not-kept",
    ]


async def test_a_reset_forgets_what_hooks_were_told(node: Node) -> None:
    async with node.running(node.hook()) as hooks:
        hooks.changed("key", FILES)
        await node.kept(1)
    layout = Layout(sealed=False, gid=None, place=Place(cluster="c", location="KV/keydist/signing-key"))
    assert PosixKeysetDisk(str(node.state), str(node.state / "run"), layout).reset()
    assert not (node.state / "hooks").exists()


async def test_without_hooks_there_is_nothing_to_do_until_the_end(node: Node) -> None:
    async with node.running() as hooks:
        hooks.changed("key", FILES)
    assert (node.log.events, hooks.failing(), list(node.state.iterdir())) == ([], (), [])

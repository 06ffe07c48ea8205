"""One configured node whose commands run in this process, on a real state directory and a bucket in memory."""

from __future__ import annotations

import copy
import gc
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keydist import wiring
from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.cli import command, main
from keydist.core.accept import Held
from keydist.core.local import Local
from keydist.core.token import BootstrapToken, format_token
from tests.fakes.memory_records import MemoryRecordBucket, MemoryRecords
from tests.fakes.memory_store import Fault, MemoryBucket, MemoryKeysetStore
from tests.material import NOW, PLACE, TOKEN, chain

_OPEN_STORE = wiring.open_store
_OPEN_PORTS = wiring.open_ports
SECRET = format_token(TOKEN).split("_")[2]
ERROR = {"code", "family", "message", "expected", "found", "fix"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        assert self.out.endswith("}\n")
        assert self.out.count("\n") == 1
        value: dict[str, Any] = json.loads(self.out)
        return value

    @property
    def error(self) -> dict[str, str]:
        """The failure that a program reads."""
        value = self.json
        assert value.keys() == {"error"}
        assert value["error"].keys() == ERROR
        assert all(isinstance(text, str) for text in value["error"].values())
        return dict(value["error"])


def disk_in(directory: Path) -> PosixKeysetDisk:
    """Return the disk of a node that keeps everything in `directory`."""
    layout = Layout(sealed=False, gid=None, place=PLACE)
    return PosixKeysetDisk(str(directory / "state"), str(directory / "run"), layout)


def install(directory: Path, *history: Held) -> Held:
    """Bring the disk in `directory` to the last of a history, by way of the others.

    Where nothing is there yet, a history that was installed before is copied: that costs no fsync.
    """
    state = directory / "state"
    if state.exists():
        _install(directory, history)
        return history[-1]
    name = hashlib.sha256(b"".join(held.digest for held in history)).hexdigest()[:16]
    template = directory.parent / f"installed-{name}"
    if not template.exists():
        template.mkdir()
        _install(template, history)
    shutil.copytree(template / "state", state, symlinks=True)
    return history[-1]


def _install(directory: Path, history: tuple[Held, ...]) -> None:
    disk = disk_in(directory)
    for held in history:
        disk.install(held, based_on=disk.load((TOKEN,)), now=NOW)


class CliNode:
    """A node in `directory`: its configuration, token file, state directory; its store is `bucket`."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.token_file = directory / "token"
        self.config = directory / "keydist.yaml"
        self.bucket = MemoryBucket()
        self.records = MemoryRecordBucket()
        self.faults: dict[str, Fault] = {}
        self.may_ask_why = True
        self.prepare: Callable[[MemoryKeysetStore], None] | None = None
        self.stores: list[MemoryKeysetStore] = []
        self._kept: dict[str, Any] = {}
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.configure()
        self.hold_tokens(TOKEN)
        for name in [name for name in os.environ if name.startswith("KEYDIST_")]:
            monkeypatch.delenv(name)
        for name in ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KEYDIST_CONFIG", str(self.config))
        for module in (wiring, command):
            monkeypatch.setattr(module, "open_store", self._open_store)
        monkeypatch.setattr(wiring, "open_ports", self._open_ports)
        monkeypatch.setattr(wiring, "refused_by_all", lambda _urls: None)

    def _open_store(self, config: object, *, seconds: float = 0) -> MemoryKeysetStore:
        opened = MemoryKeysetStore(self.bucket, may_ask_why=self.may_ask_why)
        for call, fault in self.faults.items():
            opened.fail_always(call, fault)
        if self.prepare is not None:
            self.prepare(opened)
        self.stores.append(opened)
        return opened

    def _open_ports(self, config: object, *, seconds: float = 0) -> tuple[MemoryKeysetStore, MemoryRecords]:
        return self._open_store(config, seconds=seconds), MemoryRecords(self.records)

    def use_server(self, url: str, bucket: str) -> None:
        """Let its store be a bucket of a real nats-server."""
        for module in (wiring, command):
            self._monkeypatch.setattr(module, "open_store", _OPEN_STORE)
        self._monkeypatch.setattr(wiring, "open_ports", _OPEN_PORTS)
        self.configure(nats={"servers": [url], "bucket": bucket})

    # --- the node ------------------------------------------------------------------------------

    def configure(self, **settings: object) -> None:
        """Write the configuration: a leader of the test material's cluster, and `settings`."""
        usual: dict[str, object] = {"cluster": PLACE.cluster, "node": "node-a", "role": "leader", "token_file": "token"}
        usual |= {"state_dir": "state", "runtime_dir": "run", "key": {"alg": "EdDSA"}}
        self.config.write_text(json.dumps(usual | settings), encoding="utf-8")

    def hold_tokens(self, *tokens: BootstrapToken) -> None:
        """Write the token file; none: remove it."""
        self.token_file.unlink(missing_ok=True)
        if tokens:
            self.token_file.write_text("".join(f"{format_token(token)}\n" for token in tokens), encoding="ascii")
            self.token_file.chmod(0o400)

    def disk(self) -> PosixKeysetDisk:
        """Return its disk."""
        return disk_in(self.directory)

    def load(self) -> Local:
        """Return what its disk holds."""
        return self.disk().load((TOKEN,))

    def install(self, *history: Held) -> Held:
        """Bring the disk to the last of a history, by way of the others."""
        return install(self.directory, *history)

    def hold(self, epochs: int = 1) -> Held:
        """Bring disk and store to so many epochs of the usual history."""
        held = self.install(*chain(epochs))
        self.bucket.put(held.envelope)
        return held

    def keep(self, elsewhere: Path) -> None:
        """Keep what its disk and the store hold."""
        self._kept = copy.deepcopy(self.bucket.__dict__)
        shutil.rmtree(elsewhere, ignore_errors=True)
        if self.state.exists():
            shutil.copytree(self.state, elsewhere, symlinks=True)

    def bring_back(self, elsewhere: Path) -> None:
        """Bring back what was kept, on disk and in the store."""
        self.bucket.__dict__.update(self._kept)
        shutil.rmtree(self.state, ignore_errors=True)
        if elsewhere.exists():
            shutil.copytree(elsewhere, self.state, symlinks=True)

    def lose_live(self) -> None:
        """Lose the live keyset but not the floor."""
        (self.state / "live").unlink()

    # --- its commands --------------------------------------------------------------------------

    def run(self, *arguments: str, stdin: io.TextIOBase | None = None) -> Answer:
        """Run a command as the installed script does."""
        self._capsys.readouterr()
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["/usr/bin/keydist", *arguments])
            patch.setattr(sys, "stdin", io.StringIO() if stdin is None else stdin)
            with pytest.raises(SystemExit) as left:
                main.main()
        gc.enable()
        assert all(opened.is_closed or not opened.calls for opened in self.stores)
        assert isinstance(left.value.code, int)
        said = self._capsys.readouterr()
        assert said.out.isascii() or "--version" in arguments
        for text in (said.out, said.err):
            assert SECRET not in text or arguments[:2] == ("token", "generate")
            assert "PRIVATE" not in text or "--private" in arguments
        return Answer(code=left.value.code, out=said.out, err=said.err)


class Terminal(io.StringIO):
    """A standard input that a person types into."""

    def isatty(self) -> bool:
        return True

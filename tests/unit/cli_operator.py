"""A configured leader whose commands run in this process, in virtual time, among peers that follow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from keydist import wiring
from keydist.adapters.disk.records import format_notes
from keydist.core.accept import Held
from keydist.core.token import BootstrapToken, format_token
from tests.fakes.clock import VirtualClock
from tests.fakes.memory_records import MemoryRecords
from tests.fakes.memory_store import Fault, MemoryKeysetStore
from tests.material import OTHER_TOKEN, TOKEN, notes_of
from tests.unit.cli_node import Answer, CliNode
from tests.unit.command_world import HEARTBEAT, Cluster, D, Peer

_OTHER_SECRET = format_token(OTHER_TOKEN).split("_")[2]


class CliOperator(CliNode):
    """A `CliNode` with a clock that passes only when it is waited; faults of its records in `record_faults`."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(directory, monkeypatch, capsys)
        self.clock = VirtualClock()
        self.record_faults: dict[str, Fault] = {}
        self.cluster = Cluster()
        self.cluster.clock, self.cluster.bucket, self.cluster.records = self.clock, self.bucket, self.records
        monkeypatch.setattr(wiring, "SystemClock", lambda: self.clock)
        monkeypatch.setattr(wiring, "open_ports", self._open_both)

    def _open_both(self, config: object, *, seconds: float = 0) -> tuple[MemoryKeysetStore, MemoryRecords]:
        records = MemoryRecords(self.records, self.clock)
        for call, fault in self.record_faults.items():
            records.fail_always(call, fault)
        return self._open_store(config, seconds=seconds), records

    def configure(self, **settings: object) -> None:
        super().configure(**({"heartbeat": f"{HEARTBEAT}s"} | settings))

    def hold_for(self, *history: Held, since: int = D) -> Held:
        """Bring disk and store to the last of a history, noted `since` seconds ago."""
        held = self.install(*history)
        self.bucket.put(held.envelope)
        self.note(held, since=since)
        return held

    def note(self, held: Held, *, since: int) -> None:
        """Let the node have held everything for so many seconds."""
        notes = notes_of(held, at=self.clock.now() - since)
        (self.state / "seen.json").write_bytes(format_notes(notes))

    def peer(self, name: str, held: Held | None = None, **options: Any) -> Peer:  # noqa: ANN401 - those of `Peer`
        """Let another node live."""
        return Peer(self.cluster, name, held, **options)

    def write_new(self, *tokens: BootstrapToken) -> str:
        """Write the file that brings a new token, and return its path."""
        path = self.directory / "token.new"
        path.unlink(missing_ok=True)
        path.write_text("".join(f"{format_token(token)}\n" for token in tokens or (OTHER_TOKEN,)), encoding="ascii")
        path.chmod(0o400)
        return str(path)

    def held_now(self) -> Held:
        """Return what the disk holds, under either token."""
        held = self.disk().load((TOKEN, OTHER_TOKEN)).held
        assert held is not None
        return held

    def files(self) -> dict[str, bytes]:
        """Return everything below the state directory, the token file, and what the store holds."""
        found = {str(path): path.read_bytes() for path in self.state.rglob("*") if path.is_file()}
        found["token"] = self.token_file.read_bytes()
        found["store"] = str((self.bucket.exists, self.bucket.writes)).encode() + (self.bucket.content() or b"")
        return found

    def run(self, *arguments: str, stdin: io.TextIOBase | None = None) -> Answer:
        answer = super().run(*arguments, stdin=stdin)
        assert _OTHER_SECRET not in answer.out + answer.err
        assert "Traceback" not in answer.err
        return answer

    def dry(self, *arguments: str) -> Answer:
        """Run a command with --dry-run, which must write nothing anywhere."""
        before = self.files()
        answer = self.run(*arguments, "--dry-run")
        assert self.files() == before
        return answer

    def refuse(self, *arguments: str) -> dict[str, str]:
        """Run a command with --json that must fail and write nothing to the store; its exit code stands in `exit`."""
        writes = self.bucket.writes
        answer = self.run(*arguments, "--json")
        assert self.bucket.writes == writes
        error = answer.error
        assert error["fix"] or error["family"] == "configuration"
        assert error["message"] in answer.err
        return error | {"exit": str(answer.code)}

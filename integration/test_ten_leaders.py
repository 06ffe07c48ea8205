"""Ten leaders begin on an empty store at the same moment: one key everywhere, every time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.nodes import Gate, Node
from keydist.adapters.embedded import EmbeddedServer

ROUNDS = int(os.environ.get("KEYDIST_TEST_ROUNDS", "50"))
LEADERS = 10


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_ten_leaders_at_once(
    server: EmbeddedServer,
    ask: Callable[..., dict[str, Any]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    start = time.monotonic()
    for number in range(ROUNDS):
        bucket = f"ten-{number}"
        if number % 2:  # in the other rounds they race to make the bucket too
            assert "error" not in ask("MAKE", bucket)
        nodes = [
            Node(directory=tmp_path / bucket / f"n{leader}", url=server.url, bucket=bucket, role="leader")
            for leader in range(LEADERS)
        ]
        gate = Gate(LEADERS)
        runs = [node.start(gate) for node in nodes]
        gate.open()
        answers = [run.answer() for run in runs]
        assert len({found["kid"] for found in answers}) == 1
        assert len({found["lineage"] for found in answers}) == 1
        assert sorted(found["outcome"] for found in answers) == ["adopted"] * (LEADERS - 1) + ["generated"]
        assert all(found["alarms"] == [] for found in answers)
        held = [node.load().held for node in nodes]
        assert len({keyset.envelope for keyset in held if keyset is not None}) == 1
        assert None not in held
        state = ask("INFO", bucket)["state"]
        assert (state["last_seq"], state["messages"]) == (1, 1)
    seconds = time.monotonic() - start
    record_property("seconds", round(seconds, 1))
    print(f"{ROUNDS} rounds of {LEADERS} leaders in {seconds:.1f} s, {seconds / ROUNDS:.2f} s a round")

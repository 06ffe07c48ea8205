"""Replacing a fleet's bootstrap token as operators do: a second line everywhere, a command, the first line gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from integration.fleet import Fleet
from integration.promises import Promises
from keydist.core.token import format_token, generate_token
from tests.material import TOKEN

_PATIENCE_SECONDS: Final = 60.0


class Replacement:
    """Made, it has given every node the new token; `file` holds it alone. `is_done`: the command succeeded once."""

    def __init__(self, fleet: Fleet, promises: Promises) -> None:
        self._fleet = fleet
        self.is_done = False
        self.new = generate_token(os.urandom)
        promises.tokens.append(self.new)
        file = fleet.cluster.directory / "new-token"
        _write(file, format_token(self.new))
        self.file = str(file)
        for member in fleet.members.values():
            _write(member.node.directory / "token", f"{format_token(TOKEN)}\n{format_token(self.new)}")
            member.reload()

    def finish(self) -> None:
        """Carry it through on a fleet where all run, and drop the old token everywhere."""
        self._fleet.until(self._is_replaced, "the token to be replaced", _PATIENCE_SECONDS)
        self._fleet.until(self._is_moved, "every disk under the new token", _PATIENCE_SECONDS)
        left = set(self._fleet.members)
        self._fleet.until(lambda: not self._keep_it(left), "the old token to be gone everywhere", _PATIENCE_SECONDS)

    def _is_replaced(self) -> bool:
        node = self._fleet.members["lead-1"].node
        code, _ = node.start_command("token", "rotate", "--new-token-file", self.file).end()
        return code == 0

    def _is_moved(self) -> bool:
        held = self._fleet.held()
        return len(held) == len(self._fleet.members) and {one.token_id for one in held.values()} == {self.new.token_id}

    def _keep_it(self, left: set[str]) -> set[str]:
        """Retire the old token on all nodes of `left` at once; leave there who may not yet.

        A follower that had nothing when the token was replaced has not seen it happen: there the line goes by hand.
        """
        retire = ("token", "retire", TOKEN.token_id)
        runs = {name: self._fleet.members[name].node.start_command(*retire) for name in left}
        for name, run in runs.items():
            code, answer = run.end()
            member = self._fleet.members[name]
            if code != 0 and "by hand" in answer["error"]["fix"]:
                _write(member.node.directory / "token", format_token(self.new))
                code = 0
            if code == 0:
                left.discard(name)
                member.reload()
        return left


def _write(path: Path, text: str) -> None:
    aside = path.with_name("aside")
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "w", encoding="ascii") as out:
        out.write(text + "\n")
    aside.rename(path)

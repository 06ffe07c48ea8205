"""One target under atheris, in a process of its own: `python -m fuzz.one SECONDS FOLDER MODULE TARGET`."""

from __future__ import annotations

import importlib
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import atheris  # type: ignore[import-untyped]

from fuzz.words import swapped

_GUIDES: Final = ("keydist", "fuzz", "nats", "h11", "uvicorn", "starlette", "yaml")
"""Whose branches guide the fuzzer: keydist's, and those of what reads for it."""
_MOST: Final = 8192
"""No input is longer: what a parser does with more is bounded by its first test, and by the tests."""
_BY_WORDS: Final = 0.4
_PLACES: Final = 1 << 16
_SLOW_SECONDS: Final = 60
"""An input that takes longer is a finding, on a machine that does other things too."""


def main() -> None:
    """Fuzz until the time is over or something is found; atheris ends the process."""
    seconds, folder, module, name = sys.argv[1:]
    with atheris.instrument_imports(include=list(_GUIDES)):  # of what one target needs: it takes its time
        targets = importlib.import_module(module).TARGETS
        from keydist.errors import KeydistError  # noqa: PLC0415 - what is imported here is instrumented

    target, corpus = targets[name], Path(folder) / name.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.good + target.refused):
        (corpus / f"seed-{number}").write_bytes(seed)

    def one(raw: bytes) -> None:
        with suppress(KeydistError):
            target.check(raw)

    def changed(raw: bytes, most: int, seed: int) -> bytes:
        """Change an input: its bytes, or its words."""
        chance = random.Random(seed)
        if chance.random() < _BY_WORDS:
            return swapped(raw, chance.randrange(_PLACES), chance.randrange(_PLACES))[:most]
        return bytes(atheris.Mutate(raw, most))

    switches = [
        f"-max_total_time={seconds}",
        f"-max_len={_MOST}",
        f"-timeout={_SLOW_SECONDS}",
        f"-artifact_prefix={corpus}.",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *switches], one, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

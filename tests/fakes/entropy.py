"""An `Entropy` that never repeats itself and is the same in every run."""

from __future__ import annotations

from itertools import count

from tests.material import noise, pkcs8


class NumberedEntropy:
    """Bytes and keys by number; `signing_key` makes a key of its own for each call, without waiting."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = count()
        self.keys: list[tuple[str, int]] = []
        """The algorithm and size of each key that was made."""

    def random(self, size: int) -> bytes:
        return noise(f"{self._name} {next(self._count)}", size)

    async def signing_key(self, alg: str, bits: int) -> bytes:
        self.keys.append((alg, bits))
        return pkcs8(f"{self._name} {next(self._count)}", alg)

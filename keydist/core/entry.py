"""What a read of the store's entry gives: an envelope that nobody has judged yet, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Absence(StrEnum):
    """Why the store has no envelope; `UNKNOWN` where this user may not ask."""

    NEVER_WRITTEN = "never written"
    DELETED = "deleted"
    EMPTIED = "emptied"
    BUCKET_MISSING = "bucket missing"
    UNKNOWN = "missing, empty or never written"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the entry holds, not yet trusted, and the store's own compare-and-set number."""

    envelope: bytes = field(repr=False)
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The entry holds nothing; `revision` is what a compare-and-set on the entry expects (0: no message)."""

    why: Absence
    revision: int = 0


class Shipped(NamedTuple):
    """A record of the audit trail as the stream holds it, not yet trusted: whose, its bytes, the stream's number."""

    node: str
    record: bytes
    sequence: int

"""What is fuzzed: every parser of bytes that somebody else may have made, with good inputs to begin from.

A target returns or raises a `KeydistError`; anything else is a finding. What it takes is also held against the parser's
promises: what has one spelling is written back as the same bytes, and what a verifier believes is what was signed.
What comes from NATS, from sockets and in JWTs stands first: docs/fuzzing.md tells what each of them covers.
"""

from __future__ import annotations

from typing import Final

from fuzz import of_core, of_files, of_http, of_nats, of_peers
from fuzz.target import Target

_MODULES: Final = (of_nats, of_http, of_core, of_peers, of_files)
TARGETS: Final[dict[str, Target]] = {name: target for module in _MODULES for name, target in module.TARGETS.items()}
MODULE_OF: Final = {name: module.__name__ for module in _MODULES for name in module.TARGETS}

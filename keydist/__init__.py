"""keydist: every node of a cluster gets the same JWT-signing key, and keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keydist.signing import Claims, Signer, Verifier

__all__ = ["Claims", "Signer", "Verifier", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Return a part of the library when it is first asked for: commands, and a start at boot, do without."""
    if name in ("Claims", "Signer", "Verifier"):
        from keydist import signing  # noqa: PLC0415 - 60 ms

        return getattr(signing, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)

"""One installed keyset as files: what is written for it, and how it is read back and checked.

`sums` tells damage from design: where it stands, every file must match it; where it is absent, everything is
validated from scratch, primes included. 'No matching token' and 'unknown version' are not damage; nor is a
commitment to another secret, which shows a wrong token file where the checksums match.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.disk.records import format_sums
from keydist.core.accept import Demands, Held, check_place, open_held
from keydist.core.envelope import MAX_ENVELOPE, Place, parse_envelope
from keydist.core.jwk import jwk_set
from keydist.core.pem import private_pem
from keydist.core.plaintext import parse_keyset
from keydist.core.strict import serialise
from keydist.errors import CorruptError, KeydistError, MalformedError, TamperedError, WrongTokenError

if TYPE_CHECKING:
    from keydist.adapters.disk.posix import Directory
    from keydist.core.token import BootstrapToken

ENVELOPE: Final = "keyset.jwe"
PLAINTEXT: Final = "keyset.json"
PEM: Final = "signing-key.pem"
JWKS: Final = "jwks.json"
SUMS: Final = "sums"

SEALED_FILES: Final = frozenset({ENVELOPE, JWKS, SUMS})
"""The files that hold no plaintext: all that an archive directory has where `at_rest` is sealed."""

_PRIVATE: Final = frozenset({ENVELOPE, PLAINTEXT, PEM, SUMS})
_MOST: Final = 2 * MAX_ENVELOPE


class Layout(NamedTuple):
    """How this node keeps keysets: sealed or plain, the group that may read the PEM, where they belong."""

    sealed: bool
    gid: int | None
    place: Place

    @property
    def directory_mode(self) -> int:
        """The mode of every directory on the way to the PEM."""
        return 0o700 if self.gid is None else 0o750

    def file_mode(self, name: str) -> int:
        """Return the mode of one file of an archive directory."""
        if name == PEM:
            return 0o600 if self.gid is None else 0o640
        return 0o600 if name in _PRIVATE else 0o644


def render_pem(held: Held) -> bytes:
    """Return the active signing key as PEM."""
    return private_pem(held.keyset.active)


def render(held: Held, *, sealed: bool) -> dict[str, bytes]:
    """Return the files of an archive directory, `sums` last."""
    files = {ENVELOPE: held.envelope, JWKS: serialise(jwk_set(held.keyset)) + b"\n"}
    if not sealed:
        files |= {PLAINTEXT: held.plaintext, PEM: render_pem(held)}
    return files | {SUMS: format_sums(files)}


def is_laid_out(directory: Directory, layout: Layout) -> bool:
    """Tell whether an archive directory is plain or sealed, and shared with the group, as `layout` says."""
    names = set(directory.names())
    if not directory.is_shared(mode=layout.directory_mode, gid=layout.gid):
        return False
    if layout.sealed:
        return names <= SEALED_FILES
    if PLAINTEXT not in names:
        return False
    return layout.gid is None or directory.group_of(PEM) == (layout.file_mode(PEM), layout.gid)


def read_archive(
    directory: Directory, layout: Layout, tokens: tuple[BootstrapToken, ...], known: Held | None = None
) -> Held:
    """Return the verified keyset of an archive directory; `known` is one read here before, as which the same bytes go.

    Raises `CorruptError` (damage), `UnsupportedError`, `WrongTokenError`, `CommitmentError`, `ForeignClusterError`
    (not damage), `UnsafeFileError`, `WrongUserError`, `DiskError`.
    """
    names = [name for name in directory.names() if not name.startswith(".")]
    files = {name: _read(directory, name, layout) for name in names}
    try:
        return open_files(files, Demands(place=layout.place, tokens=tokens), known)
    except (MalformedError, TamperedError) as exc:
        raise _corrupt(directory, exc.message) from exc


def open_files(files: Mapping[str, bytes], demands: Demands, known: Held | None = None) -> Held:
    """Return the verified keyset of an archive directory's files, by name. Raises as `accept.open_held`."""
    sums, files = files.get(SUMS), {name: data for name, data in files.items() if name != SUMS}
    if ENVELOPE not in files:
        raise MalformedError(f"{ENVELOPE} is missing")
    if sums is not None and sums != format_sums(files):
        raise MalformedError("its files do not match their checksums")
    held = _open(files, demands, known=known, validate=sums is None)
    if sums is None and not _fit(files, held, demands):
        raise MalformedError("its files do not fit each other")
    return held


def _open(files: Mapping[str, bytes], demands: Demands, *, known: Held | None, validate: bool) -> Held:
    envelope = files[ENVELOPE]
    header = parse_envelope(envelope)
    check_place(header, demands.place)
    if PLAINTEXT not in files:
        return open_held(envelope, demands)
    plaintext, head = files[PLAINTEXT], header.header
    if known is not None and not validate and (known.envelope, known.plaintext) == (envelope, plaintext):
        return known  # parsing is the price of a load, and most loads find what the one before found
    keyset = parse_keyset(plaintext, lineage=head.lineage, epoch=head.epoch, issued=head.issued, validate=validate)
    return Held(keyset=keyset, envelope=envelope, plaintext=plaintext, token_id=head.token_id)


def _fit(files: Mapping[str, bytes], held: Held, demands: Demands) -> bool:
    """Tell whether files that no checksum vouches for are those of one keyset; the envelope too, where it opens."""
    with suppress(WrongTokenError):
        if open_held(held.envelope, demands).plaintext != held.plaintext:
            return False
    expected = render(held, sealed=PLAINTEXT not in files)
    return files == {name: data for name, data in expected.items() if name != SUMS}


def _read(directory: Directory, name: str, layout: Layout) -> bytes:
    private = name in _PRIVATE or layout.file_mode(name) != 0o644  # noqa: PLR2004 - a mode reads best as itself
    return directory.read(name, most=_MOST, private=private, group=name == PEM and layout.gid is not None) or b""


def _corrupt(directory: Directory, why: str) -> KeydistError:
    return CorruptError(
        f"the keyset in {directory.path} is damaged: {why}",
        expected="the files as keydist wrote them",
        fix="the store or another node heals it: start keydist with NATS reachable, or: keydist store restore FILE",
    )

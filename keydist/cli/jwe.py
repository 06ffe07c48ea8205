"""`keydist jwe`: sensitive claims as JWE, under the encryption keys of this node's keyset."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.input_file import STDIN, read_input, without_newline
from keydist.adapters.public_file import write_private
from keydist.cli.command import ConfigOption, JsonOption, finish, held_local, named, this_node
from keydist.cli.jwt_input import refuse_empty
from keydist.cli.render import print_bytes, print_json
from keydist.core.crypto import IV_BYTES
from keydist.core.jwe import (
    MAX_JWE,
    MAX_PLAINTEXT,
    Jwe,
    decrypt_jwe,
    decryption_key,
    encrypt_jwe,
    encryption_key_of,
    parse_jwe,
)
from keydist.core.lease import is_fresh, may_mint
from keydist.core.strict import b64url_encode
from keydist.errors import InvalidJweError, KeydistError, UnavailableError
from keydist.wiring import look_once

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.core.keyset import Key
    from keydist.core.local import Local
    from keydist.wiring import Machine

app = typer.Typer(no_args_is_help=True, help="Sensitive claims, encrypted for this cluster.", rich_markup_mode=None)
_LOOK_SECONDS: Final = 3.0

OutOption = Annotated[
    str | None, typer.Option("--out", metavar="FILE", help="Write it there: 0600, replaced whole; - prints it.")
]


@app.command("encrypt")
def encrypt(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="What to encrypt; - for standard input.")] = STDIN,
    *,
    out: OutOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encrypt up to 64 KiB for the nodes of this cluster, as compact JWE (dir, A256GCM).

    Only for what is read soon: it can be opened until its key leaves the keyset, some days after the rotation.

    Example: keydist jwe encrypt claims.json --out claims.jwe
    """

    def work() -> int:
        refuse_empty(file, "FILE")
        plaintext = read_input(file, most=MAX_PLAINTEXT)
        node = this_node(config)
        held, local = _held(node)
        may_mint(held, local.confirmation, node.clock.now())  # what a stale key encrypts, others may not open any more
        key = encryption_key_of(held.keyset, _revoked(local))
        jwe = encrypt_jwe(plaintext, key, iv=SystemEntropy().random(IV_BYTES))
        _put({"jwe": jwe, "kid": key.kid}, f"{jwe}\n".encode("ascii"), out=out, as_json=as_json)
        return 0

    finish(work, as_json=as_json)


@app.command("decrypt")
def decrypt(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="The JWE; - for standard input.")] = STDIN,
    *,
    out: OutOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open what keydist jwe encrypt made, with the key that it names. With --json the plaintext is in base64url.

    Example: keydist jwe decrypt claims.jwe
    """

    def work() -> int:
        refuse_empty(file, "FILE")
        jwe = parse_jwe(without_newline(read_input(file, most=MAX_JWE + 1)))
        key = _key_of(jwe, this_node(config))
        plaintext = decrypt_jwe(jwe, key)
        _put({"plaintext": b64url_encode(plaintext), "kid": key.kid}, plaintext, out=out, as_json=as_json)
        return 0

    finish(work, as_json=as_json)


def _put(facts: dict[str, object], data: bytes, *, out: str | None, as_json: bool) -> None:
    if out is not None and named(out, "--out") != STDIN:
        write_private(out, data)
        if as_json:
            print_json({"kid": facts["kid"], "file": out})
    elif as_json:
        print_json(facts)
    else:
        print_bytes(data)


def _held(node: Machine) -> tuple[Held, Local]:
    local = held_local(node)
    if local.held is None:  # pragma: no cover - held_local raises
        raise AssertionError
    return local.held, local


def _revoked(local: Local) -> frozenset[str]:
    return local.floor.revoked if local.floor is not None else frozenset()


def _key_of(jwe: Jwe, node: Machine) -> Key:
    """Return the key of a JWE, after one look at the store where it is unknown. Raises why there is none."""
    held, local = _held(node)
    key = decryption_key(jwe, held.keyset, _revoked(local))
    if key is None:
        with suppress(KeydistError, OSError):  # no news
            look_once(node, seconds=_LOOK_SECONDS)
        held, local = _held(node)
        key = decryption_key(jwe, held.keyset, _revoked(local))
    if key is not None:
        return key
    if is_fresh(held, local.confirmation, node.clock.now()):
        raise InvalidJweError(
            "the key of the JWE is not in the keyset",
            expected="next, active or retired",
            found="dropped some time after it was retired, or of another cluster",
            fix="nothing opens it any more: get the content from where it came from, and encrypt it anew",
        )
    raise UnavailableError(
        "the key of the JWE is unknown here, but this node may only be behind",
        expected="an epoch that was confirmed just now",
        fix="try again with NATS reachable; see why this node does not follow: keydist status",
    )

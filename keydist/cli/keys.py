"""`keydist key` and `keydist jwks`: what this node holds, from its disk alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from keydist.adapters.public_file import write_public
from keydist.cli.command import (
    ConfigOption,
    JsonOption,
    KidCommand,
    TokenOption,
    finish,
    held_local,
    named,
    this_node,
)
from keydist.cli.render import print_json, print_line
from keydist.cli.times import date
from keydist.core.jwk import jwk_set, public_jwk
from keydist.core.pem import private_pem, public_pem
from keydist.core.strict import serialise
from keydist.errors import UsageError
from keydist.services.facts import describe_key

if TYPE_CHECKING:
    from keydist.core.keyset import Key, Keyset

app = typer.Typer(no_args_is_help=True, help="Look at this node's keys.", rich_markup_mode=None)
STDOUT: Final = "-"
KidArgument = Annotated[str, typer.Argument(metavar="KID", help="A key id, as keydist key list prints it.")]


@app.command("list")
def list_keys(config: ConfigOption = None, token_file: TokenOption = None, as_json: JsonOption = False) -> None:
    """List the keys of this node with their states and times.

    Example: keydist key list --json
    """

    def work() -> int:
        keyset = _keyset(config, token_file)
        if as_json:
            keys = [describe_key(key) for key in keyset.keys]
            revoked = [{"kid": entry.kid, "at": entry.at, "reason": entry.reason} for entry in keyset.revoked]
            print_json({"epoch": keyset.epoch, "keys": keys, "revoked": revoked})
            return 0
        for key in keyset.keys:
            print_line(f"{key.kid:<43}  {key.use}  {key.alg:<7}  {key.state:<7}  created {date(key.created)}")
        for entry in keyset.revoked:
            print_line(f"{entry.kid:<43}  revoked {date(entry.at)}  {entry.reason}")
        return 0

    finish(work, as_json=as_json)


@app.command("show", cls=KidCommand)
def show_key(
    kid: KidArgument, config: ConfigOption = None, token_file: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Show one key: its state, its times and, for a signing key, its public JWK.

    Example: keydist key show "$(keydist status --json | jq -r .kid)"
    """

    def work() -> int:
        key = _find(_keyset(config, token_file), kid)
        facts = describe_key(key) | ({"jwk": public_jwk(key)} if key.use == "sig" else {})
        if as_json:
            print_json(facts)
            return 0
        for name, value in facts.items():
            shown = (
                date(value)
                if isinstance(value, int)
                else serialise(value).decode()
                if isinstance(value, dict)
                else value
            )
            print_line(f"{name:<12}  {shown}")
        return 0

    finish(work, as_json=as_json)


@app.command("export", cls=KidCommand)
def export(
    kid: KidArgument,
    private: Annotated[bool, typer.Option("--private", help="The private key. Whoever has it can sign.")] = False,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print one signing key as PEM: public by default. With --json, the public JWK.

    Example: keydist key export KID > public.pem
    """

    def work() -> int:
        key = _find(_keyset(config, token_file), kid)
        if key.use != "sig":
            raise UsageError(
                f"{kid} is an encryption key", expected="a signing key", fix="choose one from: keydist key list"
            )
        if private and as_json:
            raise UsageError("--private prints PEM only", fix="leave out --json")
        if as_json:
            print_json(public_jwk(key))
        else:
            for line in (private_pem(key) if private else public_pem(key)).decode().splitlines():
                print_line(line)
        return 0

    finish(work, as_json=as_json)


def jwks(
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Write it there, atomically, mode 0644; - prints it.")
    ] = None,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the JWK Set: every public key that verifies, the next one included.

    Example: keydist jwks --out /srv/www/.well-known/jwks.json
    """

    def work() -> int:
        document = jwk_set(_keyset(config, token_file))
        if out is None or named(out, "--out") == STDOUT:
            print_json(document)
            return 0
        changed = write_public(out, serialise(document) + b"\n")
        if as_json:
            print_json({"file": out, "changed": changed})
        return 0

    finish(work, as_json=as_json)


def _keyset(config: str | None, token_file: str | None) -> Keyset:
    held = held_local(this_node(config, token_file)).held
    if held is None:  # pragma: no cover - held_local raises
        raise AssertionError
    return held.keyset


def _find(keyset: Keyset, kid: str) -> Key:
    for key in keyset.keys:
        if key.kid == kid:
            return key
    raise UsageError(f"this node has no key {kid[:64]!a}", fix="see them with: keydist key list")

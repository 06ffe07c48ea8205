"""`keydist jwt`: mint, verify, look into. A JWT comes by file or standard input, never as an argument."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from keydist import wiring
from keydist.adapters.clock import SystemClock
from keydist.adapters.input_file import STDIN
from keydist.cli import jwt_sink
from keydist.cli.command import ConfigOption, JsonOption, finish, this_node
from keydist.cli.jwt_input import (
    AudOption,
    ClaimsOption,
    IssOption,
    JwtArgument,
    LifetimeOption,
    SubOption,
    TypOption,
    read_jwt,
    refuse_empty,
    wished,
)
from keydist.cli.operate import seconds_of
from keydist.cli.render import print_json, print_line, tell
from keydist.cli.times import date, parse_time
from keydist.core.jws import Claims
from keydist.core.look_into import look_into
from keydist.core.policy import Policy
from keydist.core.strict import serialise
from keydist.errors import InvalidJwtError, UnavailableError, UsageError
from keydist.services.defect import defect
from keydist.services.past import verify_past
from keydist.signing import Signer, Verifier
from keydist.wiring import look_once

if TYPE_CHECKING:
    from keydist.services.read_trail import Recorded
    from keydist.wiring import Machine

app = typer.Typer(no_args_is_help=True, help="JWTs of this node's keyset.", rich_markup_mode=None)
app.command("sink")(jwt_sink.sink)
LOOK_SECONDS: Final = 3.0


@app.command("mint")
def mint(
    *,
    sub: SubOption,
    aud: AudOption,
    iss: IssOption = None,
    lifetime: LifetimeOption = "15m",
    claims: ClaimsOption = None,
    typ: TypOption = "JWT",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mint a JWT with the key that signs, and print it. Refuses where the store has not confirmed the key for long.

    Example: keydist jwt mint --sub alice --aud orders --lifetime 5m
    """

    def work() -> int:
        wish = wished(sub=sub, aud=aud, iss=iss, lifetime=lifetime, claims=claims, typ=typ)
        with Signer.open(config) as signer:
            made = wish.minted(signer)
        if as_json:
            print_json({"jwt": made.text, "kid": made.kid, "exp": made.expires})
        else:
            print_line(made.text)
        return 0

    finish(work, as_json=as_json)


@app.command("verify")
def verify(
    file: JwtArgument = STDIN,
    *,
    aud: Annotated[str, typer.Option("--aud", metavar="AUDIENCE", help="The audience that it must be for.")],
    iss: Annotated[str | None, typer.Option("--iss", metavar="ISSUER", help="The issuer; issuer: otherwise.")] = None,
    leeway: Annotated[
        str | None, typer.Option("--leeway", metavar="TIME", help="For clocks that differ; the policy's otherwise.")
    ] = None,
    typ: TypOption = "JWT",
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="As of that time, by the public keys that this node keeps for ever. A key that was ever revoked is"
            " refused for every time: whoever had it may have dated the JWT back.",
        ),
    ] = None,
    in_audit: Annotated[
        bool,
        typer.Option(
            "--in-audit",
            help="Only where the audit trail tells that a node minted it (audit: {mints: true}); a trail that cannot be"
            " read: 75.",
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print nothing: the exit code says it. A wrong command line is still told.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a JWT and print its claims as JSON. Exit code 0: valid; 65: invalid; 75: this node cannot tell.

    Example: keydist jwt verify --aud orders --iss https://prod-eu1.example --quiet < token.jwt
    """

    def work() -> int:
        try:
            found, recorded = _verified(
                file, aud=aud, iss=iss, leeway=leeway, typ=typ, at=at, in_audit=in_audit, config=config
            )
        except Exception as exc:  # noqa: BLE001 - no defect may look like a verdict
            failure = defect(exc, while_="a JWT was verified")
            if quiet and not isinstance(failure, UsageError):
                return failure.exit_code
            raise failure from None
        if not quiet:
            print_json(dict(found.all))
            if recorded is not None and not as_json:
                _tell_recorded(recorded)
        return 0

    finish(work, as_json=as_json)


@app.command("inspect")
def inspect(file: JwtArgument = STDIN, as_json: JsonOption = False) -> None:
    """Show what a JWT says, without trust: anybody may have written it. For the eyes, never for a decision.

    Example: keydist jwt inspect token.jwt
    """

    def work() -> int:
        found = look_into(read_jwt(file), now=SystemClock().now(), leeway=Policy().leeway)
        tell("keydist: NOT VERIFIED: anybody may have written this. To rely on it: keydist jwt verify")
        if found.refusal is not None:
            tell(f"keydist: verify refuses it in any case: [{found.refusal.reason}] {found.refusal}")
        if as_json:
            refused = None if found.refusal is None else found.refusal.as_json()
            print_json({"verified": False, "header": found.header, "claims": found.claims, "refused": refused})
        else:
            _print_part("header", found.header)
            _print_part("claims", found.claims)
        return 0 if found.header is not None and found.claims is not None else InvalidJwtError.exit_code

    finish(work, as_json=as_json)


def _print_part(name: str, part: dict[str, Any] | None) -> None:
    if part is None:
        print_line(f"{name}  cannot be decoded")
        return
    print_line(f"{name}  {serialise(part).decode()}")
    for claim in ("iat", "nbf", "exp"):
        if type(part.get(claim)) is int:
            print_line(f"{claim:<6}  {date(part[claim])}")


def _verified(
    file: str,
    *,
    aud: str,
    iss: str | None,
    leeway: str | None,
    typ: str,
    at: str | None,
    in_audit: bool,
    config: str | None,
) -> tuple[Claims, Recorded | None]:
    """Return the claims of a valid JWT, and its audit record where that was asked for.

    What is wrong with the command line is said before anything is read.
    """
    refuse_empty(iss, "--iss")
    refuse_empty(aud, "--aud")
    seconds = None if leeway is None else int(seconds_of(leeway, "--leeway"))
    node = this_node(config)
    issuer = iss or node.config.issuer
    if issuer is None:
        raise UsageError(
            "a JWT is measured by its issuer", expected="--iss, or issuer: in the configuration", found="neither"
        )
    then = None if at is None else _past(at, now=node.clock.now())
    jwt = read_jwt(file)
    if then is None:
        with_news = Verifier.open(config, refresh=lambda: look_once(node, seconds=LOOK_SECONDS))
        found = with_news.verify(jwt, audience=aud, issuer=issuer, leeway=seconds, typ=typ)
    else:
        found = verify_past(
            jwt, keys=node.disk, load=node.load, at=then, audience=aud, issuer=issuer, leeway=seconds, typ=typ
        )
    return found, _recorded(node, jwt) if in_audit else None


def _recorded(node: Machine, jwt: str) -> Recorded:
    """Return the record of a JWT. Refuse one that none tells of; one that cannot be checked proves nothing yet."""
    recorded = asyncio.run(wiring.in_audit(node, jwt))
    if recorded is None:
        raise InvalidJwtError(
            "the audit trail does not tell of the JWT",
            reason="not-recorded",
            expected="a record of when it was minted",
            fix="a node records what it mints with audit: {mints: true}, and ships it within seconds",
        )
    if not recorded.is_proven:
        raise UnavailableError(
            "the audit record of the JWT cannot be checked here",
            expected=f"public/{recorded.entry.kid}.jwk, the key that signed the record",
            fix="verify it on a node that was there then, or copy that file from one: its name vouches for it",
        )
    return recorded


def _tell_recorded(recorded: Recorded) -> None:
    """Tell who had it minted, and where: for people."""
    entry, uid = recorded.entry, recorded.mint.uid
    who = "" if uid is None else f", for uid {uid}"
    tell(f"keydist: minted on node {entry.place.node}{who}; recorded {date(entry.at)} as its record {entry.seq}")


def _past(text: str, *, now: int) -> int:
    at = parse_time(text, now=now)
    if at > now:
        raise UsageError(
            "--at is a time to come: what will be revoked by then is not known",
            expected=f"at most {date(now)}",
            found=date(at),
            fix="leave --at out to verify as of now",
        )
    return at

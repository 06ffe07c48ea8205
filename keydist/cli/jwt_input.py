"""What `keydist jwt` and `keydist jwe` are given: options that several share, files and standard input, bounded."""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple

import typer

from keydist.adapters.input_file import read_input, without_newline
from keydist.cli.operate import seconds_of
from keydist.core.jws import MAX_JWT
from keydist.core.own_jwt import OwnJwt, own_jwt
from keydist.core.strict import parse_object
from keydist.errors import MalformedError, UsageError
from keydist.signing import Signer

_MOST_CLAIMS: Final = MAX_JWT

JwtArgument = Annotated[str, typer.Argument(metavar="[FILE]", help="The file with the JWT; - for standard input.")]
TypOption = Annotated[str, typer.Option("--typ", help="The type in the header (typ), exactly.")]
SubOption = Annotated[str, typer.Option("--sub", metavar="SUBJECT", help="Whom it speaks of.")]
AudOption = Annotated[list[str], typer.Option("--aud", metavar="AUDIENCE", help="For whom it is; may be repeated.")]
IssOption = Annotated[str | None, typer.Option("--iss", metavar="ISSUER", help="Instead of issuer:.")]
LifetimeOption = Annotated[str, typer.Option("--lifetime", metavar="TIME", help="How long it is valid.")]
ClaimsOption = Annotated[
    str | None, typer.Option("--claims", metavar="FILE", help="More claims, a JSON object; - for standard input.")
]


class Wish(NamedTuple):
    """What a JWT is to say; `lifetime` in seconds."""

    claims: dict[str, Any]
    subject: str
    audience: str | list[str]
    issuer: str | None
    lifetime: int
    typ: str

    def minted(self, signer: Signer) -> OwnJwt:
        """Return a JWT that says it. Raises as `Signer.mint`."""
        return own_jwt(
            signer.mint(
                self.claims,
                subject=self.subject,
                audience=self.audience,
                issuer=self.issuer,
                lifetime=self.lifetime,
                typ=self.typ,
            )
        )


def wished(*, sub: str, aud: list[str], iss: str | None, lifetime: str, claims: str | None, typ: str) -> Wish:
    """Return what the options of a command ask for. Raises `UsageError`, `ConfigError`."""
    refuse_empty(iss, "--iss")
    return Wish(
        claims=read_claims(claims),
        subject=sub,
        audience=aud[0] if len(aud) == 1 else aud,
        issuer=iss,
        lifetime=int(seconds_of(lifetime, "--lifetime")),
        typ=typ,
    )


def read_jwt(file: str) -> str:
    """Return a JWT from a file or standard input: text of any content, a little longer than any JWT at most."""
    return without_newline(read_input(refuse_no_name(file), most=MAX_JWT + 1)).decode("latin-1")


def refuse_no_name(file: str) -> str:
    """Return the name of a file. Raises `UsageError` for an empty one, as an unset variable gives it."""
    refuse_empty(file, "FILE")
    return file


def refuse_empty(text: str | None, what: str) -> None:
    """Refuse an empty text, as an unset variable of a shell gives it. Raises `UsageError`."""
    if text is not None and not text:
        raise UsageError(f"{what} is empty", expected="text", found="nothing", fix="look at the variable it comes from")


def read_claims(file: str | None) -> dict[str, Any]:
    """Return the claims of a file. Raises `UsageError` for anything but a strict JSON object."""
    if file is None:
        return {}
    raw = read_input(refuse_no_name(file), most=_MOST_CLAIMS)
    try:
        if len(raw) > _MOST_CLAIMS:
            raise MalformedError("the claims are too long", expected=f"at most {_MOST_CLAIMS} bytes")  # noqa: TRY301
        return parse_object(raw, "the file of --claims")
    except MalformedError as exc:
        raise UsageError(exc.message, expected=exc.expected, found=exc.found) from None

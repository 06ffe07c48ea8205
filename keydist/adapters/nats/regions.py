"""Regions: sites with NATS servers of their own, a mirror of the keyset's bucket, and one link to the servers at home.

The accounts of a region look to its followers as those at home do: the same subjects, the same imports, the same
configuration but for `nats.servers`. A direct get is answered by the mirror. What only home can answer or keep (reads
from the stream's leader, records, trails) goes home under names of its own, as JetStream's subjects do not cross a link
between two JetStream domains; an account's mapping gives it that name here, and takes it off there. So the table of
names is all that a link may ask of JetStream at home.

What the mirror reads with stands at home, made by the operator. Whoever may make a consumer chooses the subject that
it delivers to, and in the account of the streams that is one to write to, or to have JetStream delete: a link may say
no more than from where its own one is to begin again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.nats.bucket import HOME, HOME_API, WHO, delivered
from keydist.adapters.nats.permissions import Allowed, Permissions

if TYPE_CHECKING:
    from keydist.adapters.nats.permissions import Subjects

_LAST: Final = "{{wildcard(1)}}"


class Way(NamedTuple):
    """What a region asks of home: its subject there and, `link`, its name in between; `*` is one token, the last."""

    subject: str
    link: str
    why: str


def ways(use: Subjects) -> tuple[Way, ...]:
    """Return what followers of a region ask of home."""
    return (
        Way(use.leader_get, f"{HOME}.current", "reads from the stream's leader, to confirm that an epoch is current"),
        Way(f"{use.records}*", f"{HOME}.nodes.*", "the records of the region's nodes"),
        Way(f"{use.trail_last}*", f"{HOME}.trail.*", "the ends of their audit trails"),
    )


def mirroring(use: Subjects, region: str) -> Way:
    """Return what a region's mirror asks of home."""
    again = f"CONSUMER.RESET.{use.streams[0]}.{region}"
    return Way(f"$JS.API.{again}", f"{HOME_API}.{again}", "the mirror reads the bucket on from where it is")


def flow(use: Subjects, region: str) -> str:
    """Return by which subjects a region's mirror tells how fast it reads."""
    return f"$JS.FC.{use.streams[0]}.{region}.>"


def _mapped(source: str, target: str) -> tuple[str, str]:
    return source, target.replace("*", _LAST)


def mappings_here(use: Subjects) -> dict[str, str]:
    """Return the mappings of the keys' account in a region: what goes home gets its name on the link."""
    return dict(_mapped(way.subject, way.link) for way in ways(use))


def mappings_home(use: Subjects) -> dict[str, str]:
    """Return the mappings of the links' account at home: what comes by a link stands for what it is there.

    The others are renamed where they are imported: a read from the stream's leader works across accounts only so.
    """
    return dict(_mapped(way.link, way.subject) for way in ways(use) if "*" in way.link)


def link(region: str, use: Subjects, asking: tuple[str, ...]) -> Permissions:
    """Return what the link of a region may do at home; `asking` are the users who ask for the living."""
    return Permissions(
        publish=(
            *(Allowed(way.link, way.why) for way in (*ways(use), mirroring(use, region))),
            Allowed(f"{use.trail}*", "the audit trails of the region's nodes"),
            Allowed(flow(use, region), "how fast the mirror reads"),
            *(Allowed(f"_INBOX_{name}.>", "what the living answer who asks for them") for name in asking),
        ),
        subscribe=(
            Allowed(WHO, "the question who lives"),
            Allowed("_R_.>", "the answers to what followers ask"),
            Allowed("$JSC.R.>", "the answer to the mirror"),
            Allowed(delivered(use.bucket, region), "what the mirror reads"),
        ),
        answers=False,
    )

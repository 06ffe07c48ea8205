"""Every metric, a row each: what it is called, what it says, and how its samples are read from a report.

Times are unix seconds: how long ago that was, the monitoring knows better than the moment of a scrape. Labels are
bounded: kids are those of the keyset; codes, states and reasons are those that keydist has; node names are no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from keydist.adapters import metric_samples as of
from keydist.core.report import Report

PREFIX: Final = "keydist_"


class Described(NamedTuple):
    """One metric: its kind, its name without prefix and suffix, its labels, what it says, and its samples."""

    kind: type[Metric]
    name: str
    labels: tuple[str, ...]
    text: str
    samples: Callable[[Report], Iterable[of.Sample]]

    @property
    def full_name(self) -> str:
        """The name as it is queried."""
        suffix = {CounterMetricFamily: "_total", InfoMetricFamily: "_info"}.get(self.kind, "")
        return f"{PREFIX}{self.name}{suffix}"


_G, _C, _I = GaugeMetricFamily, CounterMetricFamily, InfoMetricFamily
METRICS: Final = (
    Described(_I, "build", ("version",), "The version of keydist that runs.", lambda report: [((report.version,), 1)]),
    Described(
        _I,
        "node",
        ("cluster", "node", "role"),
        "Which node this is.",
        lambda report: [((report.cluster, report.node, report.role.value), 1)],
    ),
    Described(
        _G,
        "agent_start_timestamp_seconds",
        (),
        "Since when this agent runs, as it is configured now.",
        lambda report: of.one(report.started),
    ),
    Described(
        _G,
        "clock_timestamp_seconds",
        (),
        "What this machine's clock shows.",
        lambda report: of.one(report.now),
    ),
    Described(
        _G, "has_keyset", (), "1 where this node holds a verified keyset.", lambda r: of.one(r.keyset is not None)
    ),
    Described(_G, "epoch", (), "The epoch that this node uses.", of.of_keyset(lambda keyset: keyset.epoch)),
    Described(
        _I,
        "keyset",
        ("lineage", "token"),
        "The lineage of the keyset, and the id of the token that it is sealed under.",
        lambda report: [((report.keyset.lineage, report.keyset.token), 1)] if report.keyset else [],
    ),
    Described(
        _G,
        "epoch_issued_timestamp_seconds",
        (),
        "When the epoch was written, by the clock of its writer.",
        of.of_keyset(lambda keyset: keyset.issued),
    ),
    Described(
        _G,
        "epoch_loaded_timestamp_seconds",
        (),
        "When this agent took the epoch in, from its disk.",
        of.of_keyset(lambda keyset: keyset.loaded),
    ),
    Described(
        _G,
        "confirmed_timestamp_seconds",
        (),
        "When the stream leader last confirmed what this node holds.",
        of.of_keyset(lambda keyset: keyset.confirmed),
    ),
    Described(
        _G,
        "mint_until_timestamp_seconds",
        (),
        "The end of the lease: after it this node mints nothing until it is confirmed again.",
        of.of_keyset(lambda keyset: keyset.lease.mint_until if keyset.lease else None),
    ),
    Described(
        _G,
        "fresh_until_timestamp_seconds",
        (),
        "Until when this node calls a kid unknown that it does not know.",
        of.of_keyset(lambda keyset: keyset.lease.fresh_until if keyset.lease else None),
    ),
    Described(
        _G,
        "store_look_timestamp_seconds",
        (),
        "When this agent last looked at the store, whatever came of it.",
        lambda report: of.one(report.looked),
    ),
    Described(
        _G,
        "store_state",
        ("state",),
        "1 for what the last look found in the store, 0 for everything else.",
        of.store,
    ),
    Described(
        _G,
        "key_held_timestamp_seconds",
        ("kid", "use", "state"),
        "Since when this node holds a key in a state, by its own clock.",
        of.of_keys(of.noted),
    ),
    Described(
        _G,
        "key_state",
        ("kid", "use", "alg", "state"),
        "1 for the state of a key of the keyset.",
        of.of_keys(lambda key: [((key.use, key.alg, key.state.value), 1)]),
    ),
    Described(
        _G,
        "key_event_timestamp_seconds",
        ("kid", "use", "event"),
        "When a key was created, published, activated, retired, and how long it was extended, as the keyset says.",
        of.of_keys(of.written),
    ),
    Described(
        _G,
        "key_drop_timestamp_seconds",
        ("kid", "use"),
        "When a retired key may leave the keyset, as this node knows.",
        of.of_keys(lambda key: [] if key.drops is None else [((key.use,), key.drops)]),
    ),
    Described(
        _G,
        "revoked_keys",
        (),
        "Keys that stand in the keyset as revoked.",
        of.of_keyset(lambda keyset: len(keyset.revoked)),
    ),
    Described(
        _G,
        "rotation_due_timestamp_seconds",
        (),
        "When the next rotation is due; absent where the policy asks for none.",
        of.of_keyset(lambda keyset: keyset.plan.due),
    ),
    Described(
        _G,
        "rotation_opens_timestamp_seconds",
        (),
        "When the next keys have been published for long enough to sign.",
        of.of_keyset(lambda keyset: keyset.plan.opens),
    ),
    Described(
        _G,
        "rotation_lacking_nodes",
        (),
        "Live nodes that have not acknowledged the next keys; only on leaders.",
        lambda r: of.one(len(r.keyset.plan.lacking) if r.keyset and r.fleet else None),
    ),
    Described(_G, "overdue", ("phase",), "1 for what should be over by now.", of.overdue),
    Described(
        _G,
        "rehearsal_timestamp_seconds",
        (),
        "When a backup was last tried out on this node; absent where it never was.",
        lambda report: of.one(report.rehearsed),
    ),
    Described(
        _G,
        "republished_timestamp_seconds",
        (),
        "When this node last put its keyset back into a store that had lost it.",
        lambda report: of.one(report.republished),
    ),
    Described(
        _G,
        "alarms",
        ("code",),
        "Alarms that stand, by the code of their error.",
        of.alarms,
    ),
    Described(
        _C,
        "minted_jwts",
        ("kid",),
        "JWTs that were signed on this node with a key of the keyset.",
        of.of_keys(of.minted),
    ),
    Described(
        _G,
        "minted_last_expiry_timestamp_seconds",
        ("kid",),
        "The latest expiry among them.",
        of.of_keys(of.last_expiry),
    ),
    Described(
        _C,
        "verify_failures",
        ("reason",),
        "JWTs that this agent did not believe; unavailable: it could not tell.",
        of.failures,
    ),
    Described(
        _G,
        "fleet_nodes",
        ("state",),
        "Instances that this leader has seen, by how they stand; only on leaders.",
        of.fleet,
    ),
    Described(
        _G,
        "fleet_unreadable_records",
        (),
        "Names whose record this leader cannot open; only on leaders.",
        lambda report: of.one(len(report.fleet.unreadable) if report.fleet else None),
    ),
    Described(
        _G,
        "propagation_waiting_nodes",
        (),
        "Live nodes that have not said yet that they use the epoch; only on leaders.",
        lambda report: of.one(report.fleet.propagation.waiting if report.fleet else None),
    ),
)

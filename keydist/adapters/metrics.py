"""A report as metrics, in the text format of Prometheus or as OpenMetrics, whichever is asked for.

The metrics are the rows of `METRICS` and one histogram. Nothing is registered anywhere: a report goes in, text comes
out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from keydist.adapters import metric_samples as of
from keydist.adapters.metric_table import METRICS, PREFIX, Described
from keydist.core.report import Report

_ACCEPT: Final = re.compile(r"[ -~]{0,1024}", re.ASCII)
_CONTENT_TYPE: Final = re.compile(
    r"(?:text/plain|application/openmetrics-text); version=(?:0\.0\.4|1\.0\.0); charset=utf-8"
    r"(?:; escaping=[a-z0-9-]{1,32})?"
)
"""What the library writes by itself; a version beyond these it only repeats."""


def render_metrics(report: Report, accept: str) -> tuple[bytes, str]:
    """Return the metrics of a report and their content type, as the Accept header of a request wants them."""
    encode, content_type = _encoder(accept)
    return encode(_Reported(report)), content_type


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """Choose as the library does, but let no header that it cannot read, or should not repeat, through to it."""
    if _ACCEPT.fullmatch(accept):
        try:
            found = choose_encoder(accept)
        except (ValueError, TypeError):  # an escaping or a version that is none
            return choose_encoder("")
        if _CONTENT_TYPE.fullmatch(found[1]):
            return found
    return choose_encoder("")


class _Reported(Collector):
    """A collector of one report; it is never registered."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Yield each metric that has something to say, and the histogram."""
        for described in METRICS:
            samples = list(described.samples(self._report))
            if samples:
                yield _family(described, samples)
        if self._report.fleet is not None:
            yield _propagation(self._report)


def _family(described: Described, samples: list[of.Sample]) -> Metric:
    name = f"{PREFIX}{described.name}"
    if described.kind is InfoMetricFamily:
        info = InfoMetricFamily(name, described.text)
        info.add_metric([], dict(zip(described.labels, samples[0][0], strict=True)))
        return info
    kind = CounterMetricFamily if described.kind is CounterMetricFamily else GaugeMetricFamily
    family = kind(name, described.text, labels=described.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


PROPAGATION: Final = "propagation_seconds"
PROPAGATION_TEXT: Final = "From when this leader took an epoch to when it heard that a live node uses it."


def _propagation(report: Report) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}{PROPAGATION}", PROPAGATION_TEXT)
    if report.fleet is not None:
        found, below = report.fleet.propagation, 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*found.bounds, float("inf")), found.counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), below))
        family.add_metric([], buckets, found.total)
    return family

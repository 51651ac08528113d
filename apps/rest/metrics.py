"""Counts and times of requests, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import accumulate

# Seconds up to which requests are counted, as the quantiles of a dashboard need them.
_EDGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Requests:
    """What became of the requests, by verb and HTTP status."""

    def __init__(self) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.slots = [0] * (len(_EDGES) + 1)
        self.seconds = 0.0

    def add(self, verb: str, status: int, seconds: float) -> None:
        """Counts a request; `status` 0 is that of one whose client went away."""
        self.statuses[verb, status] += 1
        self.slots[sum(edge < seconds for edge in _EDGES)] += 1
        self.seconds += seconds

    def text(self, counters: Mapping[str, int], gauges: Mapping[str, int]) -> str:
        """Returns the numbers, with others by their names."""
        lines = ["# TYPE cnnkit_requests_total counter"]
        lines += [
            f'cnnkit_requests_total{{verb="{verb}",status="{status}"}} {count}'
            for (verb, status), count in sorted(self.statuses.items())
        ]
        lines.append("# TYPE cnnkit_request_seconds histogram")
        for edge, count in zip((*_EDGES, "+Inf"), accumulate(self.slots), strict=True):
            lines.append(f'cnnkit_request_seconds_bucket{{le="{edge}"}} {count}')
        lines.append(f"cnnkit_request_seconds_sum {self.seconds:.6f}")
        lines.append(f"cnnkit_request_seconds_count {sum(self.slots)}")
        for kind, some in (("counter", counters), ("gauge", gauges)):
            for name, value in some.items():
                lines += [f"# TYPE cnnkit_{name} {kind}", f"cnnkit_{name} {value}"]
        return "\n".join(lines) + "\n"

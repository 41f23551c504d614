"""What a server's /metrics said at a moment, and what two of them say about the time between."""

from __future__ import annotations

import time
import urllib.request
from dataclasses import dataclass
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

from legato.errors import ConfigError

PATIENCE = 5.0  # seconds
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Reading:
    """``samples``: (name without ``legato:``, labels in order of their names) -> value.
    ``problem``: why there is no newer one."""

    url: str
    moment: float  # time.monotonic()
    samples: dict[tuple[str, Labels], float]
    problem: str = ""

    def value(self, name: str, **labels: str) -> float:
        """0 for what is not told."""
        return self.samples.get((name, tuple(sorted(labels.items()))), 0.0)

    def labelled(self, name: str, label: str) -> dict[str, float]:
        """By the values of a label, those with further labels added up."""
        found: dict[str, float] = {}
        for (known, labels), value in self.samples.items():
            if known == name and label in dict(labels):
                key = dict(labels)[label]
                found[key] = found.get(key, 0.0) + value
        return found

    def labels(self, name: str) -> dict[str, str]:
        """Of the first sample of that name."""
        return next((dict(labels) for known, labels in self.samples if known == name), {})


def read(url: str) -> Reading:
    """Raises ConfigError if there is no Legato."""
    try:
        with urllib.request.urlopen(url.rstrip("/") + "/metrics", timeout=PATIENCE) as reply:
            text = reply.read().decode()
        moment = time.monotonic()  # parsing takes a while
    except (OSError, ValueError) as error:
        raise ConfigError(f"{url} does not answer: {error}", "url") from None
    samples = {
        (sample.name.removeprefix("legato:"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    if ("num_requests_running", ()) not in samples:
        raise ConfigError(f"{url} answers, but is no legato server", "url")
    return Reading(url, moment, samples)


@dataclass(frozen=True)
class Between:
    """Two readings. A counter that fell (another server) counts from nothing."""

    before: Reading
    now: Reading

    @property
    def seconds(self) -> float:
        return self.now.moment - self.before.moment

    def more(self, name: str, **labels: str) -> float:
        now, before = self.now.value(name, **labels), self.before.value(name, **labels)
        return now - before if now >= before else now

    def rate(self, name: str, **labels: str) -> float:
        """A second."""
        return self.more(name, **labels) / self.seconds if self.seconds > 0 else 0.0

    def quantile(self, name: str, share: float) -> float | None:
        """Of a histogram, as Prometheus computes it; None if nothing was observed."""
        bounds = sorted(map(float, self.now.labelled(f"{name}_bucket", "le")))
        counts = [(0.0, 0.0)]
        for bound in bounds:
            label = "+Inf" if bound == float("inf") else str(bound)
            counts.append((bound, self.more(f"{name}_bucket", le=label)))
        wanted = share * counts[-1][1]
        if not wanted:
            return None
        for (low, below), (high, upto) in pairwise(counts):
            if upto >= wanted:
                if high == float("inf"):
                    return low
                return low + (high - low) * (wanted - below) / (upto - below)
        return None

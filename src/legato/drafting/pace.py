"""Pace: what steps take, learned from those that ran.

A step of decodes takes what steps with about as many rows took lately; a prompt's chunk adds so much
for each of its tokens, more the more context these see. Both decide about speed only: no number
depends on them.

While sequences decode, a long prompt enters in chunks that they can wait for: with one a step takes
``STRETCH`` times what it takes without. So the times between two tokens stay near that multiple of
the usual, however long the prompt is. Behind much context the least chunk takes longer.
"""

from __future__ import annotations

WEIGHT = 0.2
"""Of the newest step in a mean."""

OUTLIER = 3.0
"""A step that took longer than so many times the mean counts as having taken that."""

STALE = 1000
"""Steps after which a mean that had none of its own means nothing."""

ASSUMED_FIXED_ROWS = 8
"""Before it was measured: a step's fixed cost is that of so many rows."""

LEAST_CHUNK = 4
"""Tokens of a prompt which every step may take: behind much context one token alone takes two thirds of
their time, since it reads the same keys and values."""

TELLING_CHUNK = 4
"""Tokens of a prompt from which a step without decodes tells what one of them adds."""

STRETCH = 2.5
"""How many times longer a chunk may make a step of decodes, if nothing else is said."""

SHALLOW = 512
"""Tokens of context up to which they hardly change what a token of a prompt takes."""


class Mean:
    """Moving means of a step's rows and its seconds."""

    def __init__(self, rows: int, seconds: float, now: int) -> None:
        self.rows = float(rows)
        self.seconds = seconds
        self.updated = now

    def add(self, rows: int, seconds: float, now: int) -> None:
        self.rows += WEIGHT * (rows - self.rows)
        self.seconds += WEIGHT * (min(seconds, OUTLIER * self.seconds) - self.seconds)
        self.updated = now


class Pace:
    """``target``: seconds that a step may take while sequences decode; 0: as long as it takes; None:
    ``STRETCH`` times as long as without prompts."""

    def __init__(self, target: float | None = None) -> None:
        self._target = target
        self._means: dict[int, Mean] = {}  # by the number of bits of the number of rows
        # Seconds that one token of a prompt adds, by the number of bits of SHALLOWs before it.
        self._tokens: dict[int, float] = {}
        self._now = 0

    def learn(self, rows: int, prompt_tokens: int, seconds: float, depth: int = 0) -> None:
        """A step with ``rows`` decode rows (drafts among them) and chunks of prompts has run.

        ``depth``: the mean position of the prompts' tokens."""
        if prompt_tokens == 0:
            self._now += 1
            kind = rows.bit_length()
            mean = self._means.get(kind)
            if mean is None or self._now - mean.updated > STALE:
                self._means[kind] = Mean(rows, seconds, self._now)
            else:
                self._drift(kind, seconds / self._scaled(mean, rows))
                mean.add(rows, seconds, self._now)
        elif rows or prompt_tokens >= TELLING_CHUNK:
            alone = self.seconds(rows) if rows else 0.0
            each = max(seconds - (alone or 0.0), 0.1 * seconds) / prompt_tokens
            kind = (depth // SHALLOW).bit_length()
            old = self._tokens.get(kind, each)
            self._tokens[kind] = old + WEIGHT * (min(each, OUTLIER * old) - old)

    def _drift(self, kind: int, slower: float) -> None:
        """What makes the steps of one kind ``slower`` than they were, longer contexts above all, does so to the
        others. Else a wide step of long ago would look as cheap as a narrow one of now."""
        factor = 1.0 + WEIGHT * (min(slower, OUTLIER) - 1.0)
        for other, mean in self._means.items():
            if other != kind:
                mean.seconds *= factor

    @staticmethod
    def _scaled(mean: Mean, rows: int) -> float:
        """Seconds of a step of so many rows, if they cost as those of the mean."""
        return mean.seconds * (rows + ASSUMED_FIXED_ROWS) / (mean.rows + ASSUMED_FIXED_ROWS)

    def seconds(self, rows: int) -> float | None:
        """What a step of so many decode rows takes; None before any was seen."""
        mean = self._means.get(rows.bit_length())
        if mean is not None and self._now - mean.updated <= STALE:
            return self._scaled(mean, rows)
        known = [mean for mean in self._means.values() if self._now - mean.updated <= STALE]
        if not known:
            return None
        near = min(known, key=lambda mean: abs(mean.rows - rows))
        return self._scaled(near, rows)

    def row_cost(self, rows: int) -> float:
        """What one row more adds to a step of ``rows``, in such steps."""
        more = rows + max(rows, ASSUMED_FIXED_ROWS)
        base, wider = self._means.get(rows.bit_length()), self._means.get(more.bit_length())
        if (
            base is None
            or wider is None
            or base is wider
            or self._now - min(base.updated, wider.updated) > STALE
        ):
            return 1.0 / (rows + ASSUMED_FIXED_ROWS)
        added = (wider.seconds - base.seconds) / (wider.rows - base.rows)
        return max(added, 0.0) / base.seconds

    def token(self, depth: int) -> float | None:
        """Seconds that a prompt's token at this position adds; None before any was seen."""
        kind = (depth // SHALLOW).bit_length()
        if not self._tokens:
            return None
        near = min(self._tokens, key=lambda known: abs(known - kind))
        return self._tokens[near] * 2.0 ** max(kind - near, 0)  # attention alone would be so much

    def prompt_tokens(self, decoding: int, entering: int, most: int, depth: int = 0) -> int:
        """How many tokens of prompts, the first at position ``depth``, a step may take in while
        ``decoding`` sequences decode.

        The more enter for each that decodes, the longer it may take: they wait, too.
        """
        alone, token = self.seconds(decoding), self.token(depth)
        if self._target == 0 or alone is None or token is None:
            return most
        target = STRETCH * alone if self._target is None else self._target
        room = target * max(1.0, entering / decoding) - alone
        return min(most, max(LEAST_CHUNK, int(room / token)))

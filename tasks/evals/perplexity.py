"""Perplexity of held-out texts by authority band, and of everyday texts that belong to no band."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from storage.vocabulary import BANDS, Band
from tasks.evals.estimates import Estimate, number, perplexity, perplexity_ratio, perplexity_shift
from tasks.evals.mixture import HeldOut
from tasks.evals.model_under_test import TextLikelihood
from tasks.evals.section import Outcome, Record, SampleRow, Section, TableRow
from tasks.evals.verdicts import TIMES, judge_change, judge_general_ability, judge_pattern, judge_shift

Likelihoods = Sequence[TextLikelihood]


class Perplexities(Record):
    """Perplexity of both models on the same texts, and the adapter's over the base's."""

    base: Estimate
    adapter: Estimate
    ratio: Estimate

    def table_row(self, title: str) -> TableRow:
        """One row of the short report."""
        return title, number(self.base.value), number(self.adapter.value), self.ratio.text(3, TIMES)


class BandPerplexities(Perplexities):
    """Perplexity of the texts of one band."""

    samples: int
    unscored: int
    tokens: int


class PerplexityByBand(Section):
    """Perplexity of each band, and how far the adapter moved from one end to the other."""

    bands: dict[Band, BandPerplexities]
    shift: Estimate

    def outcome(self) -> Outcome:
        """Judge the shift, and describe the pattern."""
        headline = {
            f"perplexity_{band}_{part}": getattr(found, part).value
            for band, found in self.bands.items()
            for part in ("base", "adapter", "ratio")
        }
        pattern = judge_pattern({band: found.adapter for band, found in self.bands.items()})
        return Outcome(
            [judge_shift(self.shift), pattern],
            headline | {"perplexity_shift": self.shift.value},
            [found.table_row(f"Perplexity, {band} authority") for band, found in self.bands.items()],
            [
                judge_change(
                    "perplexity_shift", "perplexity shift", self.shift, self.shift.text(3, TIMES), 1.0, up=False
                )
            ],
        )


class GeneralAbility(Section, Perplexities):
    """Perplexity of the everyday texts."""

    texts: int

    def outcome(self) -> Outcome:
        """Judge the ratio."""
        numbers = {"perplexity_neutral_ratio": self.ratio.value}
        return Outcome([judge_general_ability(self.ratio)], numbers, [self.table_row("Perplexity, everyday texts")])


def compare_perplexity(
    held_out: Sequence[HeldOut], base: Likelihoods, adapter: Likelihoods, seed: int
) -> PerplexityByBand:
    """Compare perplexity by authority band, absolutely and relative to the base."""
    bands: dict[Band, BandPerplexities] = {}
    gains: dict[Band, tuple[list[float], list[int]]] = {}
    for band in BANDS:
        rows = [row for row, sample in enumerate(held_out) if sample.band == band]
        before, after = ([found[row].nats for row in rows] for found in (base, adapter))
        tokens = [base[row].tokens for row in rows]
        gains[band] = ([a - b for a, b in zip(after, before, strict=True)], tokens)
        unscored = sum(count == 0 for count in tokens)
        bands[band] = BandPerplexities(
            samples=len(rows), unscored=unscored, tokens=sum(tokens), **_compared(before, after, tokens, seed)
        )
    return PerplexityByBand(bands=bands, shift=perplexity_shift(gains["low"], gains["high"], seed))


def compare_general_ability(base: Likelihoods, adapter: Likelihoods, seed: int) -> GeneralAbility:
    """Compare the perplexity of the everyday texts."""
    before, after = ([found.nats for found in side] for side in (base, adapter))
    return GeneralAbility(texts=len(base), **_compared(before, after, [found.tokens for found in base], seed))


def _compared(before: list[float], after: list[float], tokens: list[int], seed: int) -> dict[str, Estimate]:
    return {
        "base": perplexity(before, tokens, seed),
        "adapter": perplexity(after, tokens, seed),
        "ratio": perplexity_ratio(before, after, tokens, seed),
    }


def held_out_rows(held_out: Sequence[HeldOut], found: Likelihoods) -> Iterator[SampleRow]:
    """Return a row for each held-out text; the mixture has its text."""
    for sample, likelihood in zip(held_out, found, strict=bool(found)):
        yield _row("perplexity", sample.id, None, likelihood, {"band": sample.band})


def neutral_rows(texts: Sequence[str], found: Likelihoods) -> Iterator[SampleRow]:
    """Return a row for each everyday text."""
    for place, (text, likelihood) in enumerate(zip(texts, found, strict=bool(found))):
        yield _row("general_ability", f"neutral:{place}", text, likelihood, {})


def _row(suite: str, name: str, prompt: str | None, found: TextLikelihood, details: dict[str, JsonValue]) -> SampleRow:
    details |= {"nats": found.nats, "tokens": found.tokens}
    if not found.tokens:
        return SampleRow(suite, name, "unscored", None, prompt, reason="a single token", details=details)
    return SampleRow(suite, name, "measured", found.nats / found.tokens, prompt, details=details)

from __future__ import annotations

import random
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import MixtureError
from storage.vocabulary import BANDS, TRIVIA, band_of
from tasks.mixture.bands import TARGETS
from tasks.mixture.draw import allocate, check_drawn, draw_mixture
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.sides import Candidates


def column(values: Any) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def candidates_of(
    bands: Any, *, groups: Any = None, sources: Any = None, names: Any = None, trivia: Any = None, conflicts: Any = None
) -> Candidates:
    """Documents of these bands; unless told, each is a group of its own and every band is one source and category."""
    ids = [f"d{row}" for row in range(len(bands))]
    return Candidates(
        ids,
        np.arange(len(ids)) if groups is None else column(groups),
        ids if groups is None else [f"g{group}" for group in range(max(groups) + 1)],
        column(bands),
        column(bands if trivia is None else trivia),
        column(bands if sources is None else sources),
        names or ["a", "b", "c"],
        column([-1] * len(ids) if conflicts is None else conflicts),
    )


def make_candidates(seed: int, groups: int, sources: int, largest_group: int, strays: float = 0.05) -> Candidates:
    """Groups of samples; a share of `strays` has another band than its source."""
    rng = random.Random(seed)
    kinds = [(s % 3 if s < 3 else rng.randrange(3), rng.randrange(3)) for s in range(sources)]
    rows = []
    for group in range(groups):
        source = rng.randrange(sources)
        for part in range(rng.randint(1, largest_group)):
            band = rng.randrange(3) if rng.random() < strays else kinds[source][0]
            rows.append((f"s{source}:{group}#{part}", group, band, kinds[source][1], source))
    ids, *columns = zip(*rows, strict=True)
    group, band, trivium, source = (column(list(values)) for values in columns)
    return Candidates(
        list(ids),
        group,
        [f"g{i}" for i in range(groups)],
        band,
        trivium,
        source,
        [f"s{i}" for i in range(sources)],
        column([-1] * len(rows)),
    )


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(60, 700),
    st.integers(3, 9),
    st.integers(1, 8),
    st.sampled_from([None, 0.3, 0.9]),
    st.sampled_from([0.20, 0.25, 0.28]),
)
def test_whatever_is_drawn_keeps_every_promise(
    seed: int, groups: int, sources: int, largest_group: int, share: float | None, least: float
) -> None:
    candidates = make_candidates(seed, groups, sources, largest_group)
    total = int(len(candidates.ids) * share * 0.5) if share else None
    parameters = MixtureParameters(
        train_size=total and max(1, total * 4 // 5), scale=seed % 2 == 0, min_low_authority=least, seed=seed
    )
    try:
        drawn = draw_mixture(candidates, parameters)
    except MixtureError as error:
        advice = re.search(r"related documents .* train_size=(\d+) and val_size=(\d+)", str(error))
        if advice is None:
            return
        sizes = {"train_size": int(advice[1]), "val_size": int(advice[2])}
        drawn = draw_mixture(candidates, parameters.model_copy(update=sizes))
    for side, size in ((drawn.train, drawn.plan.train_size), (drawn.valid, drawn.plan.val_size)):
        assert len(set(side.tolist())) == len(side) == size
        for code, band in enumerate(BANDS):
            low, high = drawn.plan.limits[band]
            assert low * size <= int((candidates.bands[side] == code).sum()) <= high * size
    assert not set(candidates.groups[drawn.train].tolist()) & set(candidates.groups[drawn.valid].tolist())
    if least >= 0.25:
        assert drawn.plan.limits["high"] == TARGETS["high"]


def test_another_seed_holds_out_other_samples() -> None:
    candidates = make_candidates(4, 400, 6, 4)
    one, other = (set(draw_mixture(candidates, MixtureParameters(seed=seed)).valid.tolist()) for seed in (42, 43))
    assert one != other


def test_scarce_low_authority_is_all_kept() -> None:
    candidates = candidates_of([0] * 250 + [1] * 900 + [2] * 900)
    drawn = draw_mixture(candidates, MixtureParameters(train_size=760, val_size=190))
    assert drawn.plan.rows["low"] == 250
    assert int((candidates.bands[np.concatenate([drawn.train, drawn.valid])] == 0).sum()) == 250


def test_a_cell_is_drawn_from_its_sources_in_proportion() -> None:
    sizes = {("archive", 0): 600, ("library", 0): 200, ("papers", 1): 900, ("press", 2): 600, ("wiki", 2): 300}
    rows = [(name, band) for (name, band), count in sizes.items() for _ in range(count)]
    names_of = sorted({name for name, _ in rows})
    sources = column([names_of.index(name) for name, _ in rows])
    candidates = candidates_of([band for _, band in rows], sources=sources, names=names_of)
    drawn = draw_mixture(candidates, MixtureParameters(train_size=800, val_size=200))
    for side in (drawn.train, drawn.valid):
        counts = np.bincount(sources[side], minlength=len(names_of)).tolist()
        archive, library, _, press, wiki = counts
        assert abs(archive - 3 * library) <= 2 and abs(press - 2 * wiki) <= 2 and library and wiki


def test_groups_that_leave_a_side_without_a_band_are_explained() -> None:
    rows = [i for i in range(3) for _ in range(200)]
    huge = candidates_of(rows, groups=rows)
    with pytest.raises(MixtureError, match="too few or too large"):
        draw_mixture(huge, MixtureParameters())


def test_exact_sizes_that_groups_forbid_name_the_nearest() -> None:
    groups = [i for i in range(60) for _ in range(8)]
    candidates = candidates_of([group % 3 for group in groups], groups=groups)
    with pytest.raises(MixtureError, match="related documents stay on one side") as error:
        draw_mixture(candidates, MixtureParameters(train_size=367, val_size=86))
    train, val = map(int, re.findall(r"_size=(\d+)", str(error.value)))
    assert draw_mixture(candidates, MixtureParameters(train_size=train, val_size=val)).plan.total == train + val > 400
    shrunk = draw_mixture(candidates, MixtureParameters(train_size=367, val_size=86, scale=True))
    assert "keeping related documents on one side costs" in shrunk.remarks[0]
    assert shrunk.plan.requested == (367, 86)


def test_a_size_that_was_left_out_may_shrink() -> None:
    candidates = make_candidates(311, 477, 8, 4)
    drawn = draw_mixture(candidates, MixtureParameters(train_size=432, min_low_authority=0.28, seed=311))
    assert drawn.plan.train_size == 432 and 80 < drawn.plan.val_size < 108


def test_a_broken_mixture_is_not_written() -> None:
    candidates = make_candidates(4, 400, 6, 4)
    drawn = draw_mixture(candidates, MixtureParameters())
    twice = drawn.train.copy()
    twice[0] = twice[1]
    with pytest.raises(AssertionError):
        check_drawn(candidates, type(drawn)(twice, drawn.valid, drawn.plan, []))


def test_sources_come_before_the_trivium_and_the_trivium_inside_a_source() -> None:
    available = np.zeros((3, 3, 3), np.int64)
    available[0, 0] = [200, 900, 900]
    available[1, 1] = [0, 1200, 0]
    available[2, 2] = [900, 200, 500]
    chosen = allocate(available, [300, 300, 400])
    assert chosen.sum(axis=(1, 2)).tolist() == [300, 300, 400]
    sums = chosen.sum(axis=(0, 1))
    assert sums.min() >= 200 and sums.max() <= 400
    one_kind = np.zeros((3, 2, 3), np.int64)
    one_kind[:, :, 1] = 1000
    assert allocate(one_kind, [300, 300, 400])[:, :, 1].tolist() == [[150, 150], [150, 150], [200, 200]]


def test_every_source_of_the_guide_gives_its_share() -> None:
    """The guide's sources with its sizes: patents and philosophy are of one trivium category and still drawn."""
    catalogue = tomllib.loads((Path(__file__).parents[3] / "tasks/sources/catalogue.toml").read_text("utf-8"))
    kinds = {
        name: (
            BANDS.index(band_of(entry["prior_authority"])),
            TRIVIA.index(entry.get("trivium", "grammar")),
            entry["target"],
        )
        for name, entry in sorted(catalogue.items())
        if isinstance(entry, dict) and entry.get("target") and "prior_authority" in entry
    }
    assert {"us_patents", "classical_philosophy"} <= set(kinds)
    columns = [
        (i, band, trivium) for i, (band, trivium, count) in enumerate(kinds.values()) for _ in range(count // 10)
    ]
    sources, bands, trivia = (column(list(values)) for values in zip(*columns, strict=True))
    candidates = candidates_of(bands, sources=sources, names=list(kinds), trivia=trivia)
    drawn = draw_mixture(candidates, MixtureParameters(train_size=8000, val_size=2000, accept_imbalance=True))
    rows = np.concatenate([drawn.train, drawn.valid])
    for i, name in enumerate(kinds):
        of_band = bands == kinds[name][0]
        fair = (sources == i).sum() / of_band.sum() * (bands[rows] == kinds[name][0]).sum()
        assert (sources[rows] == i).sum() >= 0.9 * fair, name


def test_pieces_of_one_prompt_stay_together_and_are_drawn_first() -> None:
    rows = [(band, pair if pair < 20 else -1) for pair in range(300) for band in range(3)]
    bands, conflicts = (column(list(values)) for values in zip(*rows, strict=True))
    conflicts[bands == 1] = -1
    candidates = candidates_of(bands, conflicts=conflicts)
    drawn = draw_mixture(candidates, MixtureParameters(train_size=80, val_size=20))
    for side in (drawn.train, drawn.valid):
        low, high = (set(conflicts[side][bands[side] == band].tolist()) - {-1} for band in (0, 2))
        assert low == high
    assert (conflicts[np.concatenate([drawn.train, drawn.valid])] >= 0).sum() == 40


def test_one_prompt_of_many_pieces_does_not_empty_a_side() -> None:
    candidates = candidates_of([0, 1, 2] * 200, conflicts=[0] * 600)
    assert draw_mixture(candidates, MixtureParameters()).plan.total > 480

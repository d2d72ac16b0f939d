from __future__ import annotations

import random
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import MixtureError
from storage.vocabulary import BANDS, TRIVIA
from tasks.mixture.allocate import allocate_cells, largest_remainder
from tasks.mixture.bands import TARGETS, fits, largest_side, target_rows
from tasks.mixture.candidates import Candidates
from tasks.mixture.draw import check_drawn, draw_mixture
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.split import assign_sides


def column(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


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
        list(ids), group, [f"g{i}" for i in range(groups)], band, trivium, source, [f"s{i}" for i in range(sources)]
    )


def names(candidates: Candidates, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[str]:
    return [candidates.ids[i] for i in rows.tolist()]


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


def test_input_order_does_not_matter_but_the_seed_does() -> None:
    candidates = make_candidates(4, 400, 6, 4)
    drawn = draw_mixture(candidates, MixtureParameters())
    order = np.random.default_rng(1).permutation(len(candidates.ids))
    renumber = np.random.default_rng(2).permutation(len(candidates.group_names))
    group_names = [""] * len(renumber)
    for old, new in enumerate(renumber.tolist()):
        group_names[new] = candidates.group_names[old]
    shuffled = Candidates(
        [candidates.ids[i] for i in order.tolist()],
        renumber[candidates.groups][order],
        group_names,
        candidates.bands[order],
        candidates.trivia[order],
        candidates.sources[order],
        candidates.source_names,
    )
    again = draw_mixture(shuffled, MixtureParameters())
    assert names(shuffled, again.train) == names(candidates, drawn.train)
    assert names(shuffled, again.valid) == names(candidates, drawn.valid)
    other = draw_mixture(candidates, MixtureParameters(seed=43))
    assert names(candidates, other.valid) != names(candidates, drawn.valid)


def test_scarce_low_authority_is_all_kept() -> None:
    rng = random.Random(9)
    bands = [0] * 250 + [1] * 900 + [2] * 900
    rows = len(bands)
    candidates = Candidates(
        [f"d{i}" for i in range(rows)],
        np.arange(rows),
        [f"d{i}" for i in range(rows)],
        column(bands),
        column([rng.randrange(3) for _ in bands]),
        column(bands),
        ["archive", "papers", "press"],
    )
    drawn = draw_mixture(candidates, MixtureParameters(train_size=760, val_size=190))
    assert drawn.plan.rows["low"] == 250
    assert int((candidates.bands[np.concatenate([drawn.train, drawn.valid])] == 0).sum()) == 250


def test_a_cell_is_drawn_from_its_sources_in_proportion() -> None:
    sizes = {("archive", 0): 600, ("library", 0): 200, ("papers", 1): 900, ("press", 2): 600, ("wiki", 2): 300}
    rows = [(name, band) for (name, band), count in sizes.items() for _ in range(count)]
    names_of = sorted({name for name, _ in rows})
    bands = column([band for _, band in rows])
    ids = [f"d{i}" for i in range(len(rows))]
    sources = column([names_of.index(name) for name, _ in rows])
    candidates = Candidates(ids, np.arange(len(rows)), ids, bands, bands, sources, names_of)
    drawn = draw_mixture(candidates, MixtureParameters(train_size=800, val_size=200))
    for side in (drawn.train, drawn.valid):
        counts = np.bincount(sources[side], minlength=len(names_of)).tolist()
        archive, library, _, press, wiki = counts
        assert abs(archive - 3 * library) <= 2 and abs(press - 2 * wiki) <= 2 and library and wiki


def test_groups_that_leave_a_side_without_a_band_are_explained() -> None:
    candidates = make_candidates(1, 3, 3, 1, strays=0)
    rows = [i for i in range(3) for _ in range(200)]
    huge = Candidates(
        [f"d{i}" for i in range(600)],
        column(rows),
        candidates.group_names,
        column(rows),
        column(rows),
        column(rows),
        candidates.source_names,
    )
    with pytest.raises(MixtureError, match="too few or too large"):
        draw_mixture(huge, MixtureParameters())


def test_exact_sizes_that_groups_forbid_name_the_nearest() -> None:
    rows = [i % 3 for i in range(60) for _ in range(8)]
    candidates = Candidates(
        [f"d{i}" for i in range(480)],
        column([i for i in range(60) for _ in range(8)]),
        [f"g{i}" for i in range(60)],
        column(rows),
        column(rows),
        column(rows),
        ["a", "b", "c"],
    )
    with pytest.raises(MixtureError, match="related documents stay on one side") as error:
        draw_mixture(candidates, MixtureParameters(train_size=367, val_size=86))
    train, val = map(int, re.findall(r"_size=(\d+)", str(error.value)))
    assert draw_mixture(candidates, MixtureParameters(train_size=train, val_size=val)).plan.total == train + val > 400
    shrunk = draw_mixture(candidates, MixtureParameters(train_size=367, val_size=86, scale=True))
    assert "keeping related documents on one side costs" in shrunk.remarks[0]
    assert shrunk.plan.requested == (367, 86)


def test_a_size_that_was_left_out_may_shrink() -> None:
    candidates = make_candidates(1372, 477, 8, 4)
    drawn = draw_mixture(candidates, MixtureParameters(train_size=432, min_low_authority=0.28, seed=1372))
    assert drawn.plan.train_size == 432 and 80 < drawn.plan.val_size < 108


def test_a_broken_mixture_is_not_written() -> None:
    candidates = make_candidates(4, 400, 6, 4)
    drawn = draw_mixture(candidates, MixtureParameters())
    twice = drawn.train.copy()
    twice[0] = twice[1]
    with pytest.raises(AssertionError):
        check_drawn(candidates, type(drawn)(twice, drawn.valid, drawn.plan, []))


@pytest.mark.parametrize("share", [Fraction(1, 5), Fraction(1, 2), Fraction(1, 50)])
def test_every_band_gets_its_share_to_within_a_group(share: Fraction) -> None:
    candidates = make_candidates(8, 900, 9, 8, strays=0)
    strata = np.stack([candidates.bands, candidates.trivia, candidates.sources], axis=1)
    valid = assign_sides(candidates.groups, candidates.group_names, strata, share, 42)
    for band in range(3):
        here = candidates.bands == band
        assert abs(int((valid & here).sum()) - share * int(here.sum())) <= 8


def test_trivium_limits_are_kept_where_they_can_be() -> None:
    available = np.array([[200, 900, 900], [0, 1200, 0], [900, 200, 500]])
    allocation = allocate_cells(available, 1000, TARGETS)
    assert allocation.trivium_excess == dict.fromkeys(TRIVIA, 0)
    assert allocation.cells[:, 1].sum() <= 400


def test_trivium_gives_way_to_the_bands() -> None:
    available = np.zeros((3, 3), np.int64)
    available[:, 1] = 1000
    allocation = allocate_cells(available, 1000, TARGETS)
    assert allocation.trivium_excess == {"grammar": -200, "logic": 600, "rhetoric": -200}


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 400), min_size=9, max_size=9), st.floats(0.3, 1.0))
def test_an_allocation_is_feasible_and_keeps_low(cells: list[int], share: float) -> None:
    available = np.array(cells, np.int64).reshape(3, 3)
    counts = dict(zip(BANDS, available.sum(axis=1).tolist(), strict=True))
    size = largest_side(counts, TARGETS, int(available.sum() * share))
    if not size:
        return
    chosen = allocate_cells(available, size, TARGETS).cells
    assert (chosen <= available).all() and chosen.sum() == size
    assert chosen[0].sum() == target_rows(counts, [size])["low"]
    assert fits(dict(zip(BANDS, chosen.sum(axis=1).tolist(), strict=True)), [size])


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.data())
def test_the_largest_remainder_is_exact_and_never_too_much(weights: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(weights)))
    parts = largest_remainder(total, weights)
    assert sum(parts) == total
    assert all(0 <= part <= weight for part, weight in zip(parts, weights, strict=True))

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tests.tasks.sources.conftest import opened
from tests.tasks.sources.hub_double import COMMIT, CONVERTED, Hub, Reader, make_fields

COLUMNS = {"text": "text", "id": "id", "date": "metadata.publication_date"}


def make_rows(first: int, count: int) -> list[dict[str, Any]]:
    noise = random.Random(first)
    return [
        {
            "id": str(n),
            "text": f"This is the text of row {n}. {noise.randbytes(200).hex()}",
            "metadata": {"publication_date": str(1900 + n % 100)},
            "unused": noise.randbytes(100).hex(),
        }
        for n in range(first, first + count)
    ]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=40)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows, indent=1), "utf-8")
    else:
        file.write_bytes(gzip.compress(lines) if file.suffix == ".gz" else lines)


def make_dataset(folder: Path, suffix: str, files: int, rows: int) -> None:
    for part in range(files):
        write_rows(folder / "data" / f"train-{part:05d}-of-{files:05d}{suffix}", make_rows(part * rows, rows))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with closing(Reader(tmp_path_factory.mktemp("reader"))) as reader:
        yield reader


async def test_a_dataset_is_streamed_from_a_hub(tmp_path: Path, reader: Reader) -> None:
    root = tmp_path / "hub"
    make_dataset(root / "ds", ".parquet", files=2, rows=50)
    (root / "ds" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n", "utf-8"
    )
    hub = Hub(root)
    old = make_fields(
        "old", columns=COLUMNS, rows_per_item=20, year_filter={"max": 1949}, scan_rows=120, revision=COMMIT
    )
    commands = [
        {"fields": make_fields("all", columns=COLUMNS, rows_per_item=15), "limit": 100},
        {"fields": old},
        {"fields": make_fields("typo", columns={"text": "txet"})},
        {"fields": make_fields("absent", repo="org/absent")},
        {"fields": make_fields("split", split="test")},
    ]
    everything, old_ones, typo, absent, split = await reader.run(hub, commands)

    assert everything["items"][1] == {"revision": COMMIT, "start": 15, "rows": 15}
    assert everything["ids"] == [str(n) for n in range(100)]
    assert [item["start"] for item in old_ones["items"]] == [0, 20, 40, 60, 80, 100]
    assert (len(old_ones["ids"]), old_ones["reasons"]) == (50, {"outside-years": 50})
    assert typo["error"] == absent["error"] == split["error"] == "SourceUnavailable"
    assert "no columns ['txet']" in typo["message"]
    assert "HF_TOKEN" in absent["message"]
    assert "no split 'test', only ['train']" in split["message"]


async def test_rows_come_once_and_in_order_wherever_reading_stops(tmp_path: Path, reader: Reader) -> None:
    root = tmp_path / "hub"
    cuts = random.Random(7)
    commands = []
    for suffix in (".parquet", ".jsonl", ".jsonl.gz", ".json"):
        for files in (1, 3):
            name = f"ds{suffix}{files}".replace(".", "-")
            make_dataset(root / name, suffix, files, 120 // files)
            stops = [0, *sorted(cuts.sample(range(1, 18), 4)), 18]
            # Each process begins some ranges before the end of what an earlier one read: shards under way start over.
            parts = [[max(0, begin - cuts.choice((0, 0, 2))), end] for begin, end in itertools.pairwise(stops)]
            commands.append(
                {
                    "fields": make_fields("ds", repo=f"org/{name}", columns=COLUMNS, rows_per_item=7),
                    "limit": 50,
                    "workspace": str(tmp_path / "work" / name),
                    "parts": parts,
                }
            )
    found = await reader.run(Hub(root), commands)
    for command, result in zip(commands, found, strict=True):
        expected = [str(n) for begin, end in command["parts"] for n in range(begin * 7, min(end * 7, 120))]
        assert result.get("ids") == expected, (command, result)


async def test_after_a_kill_the_files_that_were_read_are_not_fetched_again(tmp_path: Path, reader: Reader) -> None:
    root = tmp_path / "hub"
    hub = Hub(root)
    commands = []
    for suffix in (".parquet", ".jsonl", ".jsonl.gz"):
        name = suffix.replace(".", "")
        make_dataset(root / name, suffix, files=4, rows=400)
        fields = make_fields(repo=f"org/{name}", columns=COLUMNS, rows_per_item=100)
        commands.append({"fields": fields, "limit": 800, "workspace": str(tmp_path / "work" / name)})
    first = [{**command, "parts": [[0, 10]]} for command in commands]
    await reader.run(hub, [*first[:-1], {**first[-1], "die": True}])
    before = hub.fetched.copy()
    hub.fetched.clear()
    found = await reader.run(hub, [{**command, "parts": [[9, None]]} for command in commands])
    for suffix, result in zip((".parquet", ".jsonl", ".jsonl.gz"), found, strict=True):
        assert result["ids"] == [str(n) for n in range(900, 1600)]
        names = [f"{suffix.replace('.', '')}/data/train-{part:05d}-of-00004{suffix}" for part in range(4)]
        assert min(before[name] for name in names[:3]) > 40_000
        # Of a Parquet file the schema is read, which lies in its last 64 KiB.
        assert hub.fetched[names[0]] <= (65_536 * 2 if suffix == ".parquet" else 0)
        assert hub.fetched[names[1]] == 0
        assert hub.fetched[names[2]] > 0
        assert hub.fetched[names[3]] > 0


async def test_a_saved_position_of_anything_else_is_refused(tmp_path: Path, reader: Reader) -> None:
    root, work = tmp_path / "hub", tmp_path / "work"
    make_dataset(root / "ds", ".jsonl", files=2, rows=60)
    hub = Hub(root)
    fields = make_fields(columns=COLUMNS, rows_per_item=20)
    command = {"fields": fields, "limit": 60, "workspace": str(work)}
    await reader.run(hub, [{**command, "parts": [[0, 5]]}])
    saved = json.loads((work / "position-000000000080.json").read_text("utf-8"))
    later = json.loads((work / "position-000000000100.json").read_text("utf-8"))
    variants: dict[str, Any] = {
        "of a later row": {**saved, "state": later["state"]},
        "of no shape": {**saved, "state": {"examples_iterable": {}}},
        "of another row": {**saved, "last_row": "0" * 64},
        "of another revision": {**saved, "identity": {**saved["identity"], "revision": CONVERTED}},
        "of another version": {**saved, "identity": {**saved["identity"], "datasets": "4.0.0"}},
        "of no number": {**saved, "row": "eighty"},
        "of nothing": [],
    }
    commands = []
    for name, content in variants.items():
        folder = tmp_path / "variants" / name
        folder.mkdir(parents=True)
        (folder / "position-000000000080.json").write_text(json.dumps(content), "utf-8")
        commands.append({**command, "workspace": str(folder), "parts": [[4, 6]]})
    found = await reader.run(hub, commands)
    for name, result in zip(variants, found, strict=True):
        assert result.get("ids") == [str(n) for n in range(80, 120)], (name, result)


async def test_failures_that_pass_cost_time_but_no_row(tmp_path: Path, reader: Reader) -> None:
    root = tmp_path / "hub"
    hub = Hub(root)
    commands: list[dict[str, Any]] = []
    window = (429, {"RateLimit": '"api";r=0;t=9'})
    for suffix in (".parquet", ".jsonl.gz"):
        # The library tries six times by itself, in pauses of seconds, before it gives a status up.
        for label, faults in {
            "burst": [503] * 7,
            "cut": ["cut"] * 3,
            "forbidden-pace": [window] * 7,
            "down": [503] * 100,
            "long-pause": [(429, {"RateLimit": '"api";r=0;t=250'})] * 20,
            "too-long-pause": [(429, {"RateLimit": '"api";r=0;t=250'})] * 100,
        }.items():
            name = f"{label}{suffix.replace('.', '-')}"
            make_dataset(root / name, suffix, files=3, rows=40)
            hub.faults[f"{name}/data/train-00001-of-00003{suffix}"] = list(faults)
            fields = make_fields(name, repo=f"org/{name}", columns=COLUMNS, rows_per_item=10)
            patience = {"patience": 200.0} if label == "too-long-pause" else {}
            commands.append({"fields": fields, "limit": 60, **patience})
    found = await reader.run(hub, commands)
    for command, result in zip(commands, found, strict=True):
        name = command["fields"]["name"]
        if name.startswith("down"):
            assert (result.get("error"), result["pause"]) == ("ArchiveBusy", None), result
            assert "answered 503" in result["message"]
            assert 60 < sum(result["slept"]) < 300
        elif name.startswith("too-long-pause"):
            assert (result.get("error"), result["pause"]) == ("ArchiveAway", 250), result
        else:
            assert result.get("ids") == [str(n) for n in range(120)], (name, result)
            assert not hub.faults[f"{name}/data/train-00001-of-00003{'.parquet' if 'parquet' in name else '.jsonl.gz'}"]


async def test_a_look_up_that_fails_for_now_is_tried_again(tmp_path: Path, reader: Reader) -> None:
    root = tmp_path / "hub"
    hub = Hub(root)
    commands = []
    for label, faults in {
        "once": [429],
        "named": [(429, {"RateLimit": '"api";r=0;t=77'})],
        "often": [503, 500, "cut", 502],
        "dead": [503] * 50,
    }.items():
        make_dataset(root / label, ".jsonl", files=1, rows=20)
        hub.faults[f"{label}/info"] = list(faults)
        commands.append({"fields": make_fields(label, repo=f"org/{label}", columns=COLUMNS), "limit": 20})
    *passed, dead = await reader.run(hub, commands)
    for result in passed:
        assert result.get("ids") == [str(n) for n in range(20)], result
    assert 77 in passed[1]["slept"]
    assert (dead["error"], sum(dead["slept"]) < 60) == ("ArchiveBusy", True)


async def test_every_form_of_dataset_is_read_or_answered(tmp_path: Path, reader: Reader) -> None:
    root = tmp_path / "hub"
    hub = Hub(root)
    rows = make_rows(0, 30)
    for name in ("gated", "locked", "script", "converted"):
        make_dataset(root / name, ".parquet", files=1, rows=30)
    hub.gated.update(gated=401, locked=403)
    (root / "script" / "script.py").write_text("raise SystemExit\n", "utf-8")
    write_rows(root / "converted.converted" / "all" / "partial-train" / "0000.parquet", rows)
    write_rows(root / "other-columns" / "train-0.parquet", rows)
    write_rows(
        root / "other-columns" / "train-1.parquet",
        [{"body": "x", "id": "30", "metadata": row["metadata"]} for row in rows],
    )
    write_rows(root / "more-columns" / "train-0.parquet", rows)
    write_rows(
        root / "more-columns" / "train-1.parquet", [{**row, "id": str(30 + n), "new": n} for n, row in enumerate(rows)]
    )
    # The library's own reader of JSON stops at both: a column that holds nothing in the first ten megabytes, and a
    # key that comes up later.
    filler = "x" * 100_000
    late = [{"id": str(n), "text": f"text {n} {filler}", "date": None} for n in range(110)]
    late += [{"id": "110", "text": "dated at last", "date": "1901", "metadata": {"new": 1}}]
    write_rows(root / "null" / "train.jsonl", late)
    lines = b'{"id": 1, "text": "one"}\n\n{broken\n[2]\n{"id": 3, "text": "bad \xff byte"}\n'
    (root / "broken").mkdir()
    (root / "broken" / "train.json").write_bytes(lines)
    commands = [
        {"fields": make_fields(name, repo=f"org/{name}", **{"columns": COLUMNS, **more}), "limit": 200}
        for name, more in [
            ("gated", {}),
            ("locked", {}),
            ("script", {}),
            ("converted", {"revision": "refs/convert/parquet", "data_dir": "all"}),
            ("other-columns", {}),
            ("more-columns", {}),
            ("null", {"columns": {"text": "text", "id": "id", "date": "date"}}),
            ("broken", {}),
        ]
    ]
    results = await reader.run(hub, commands)
    found = {command["fields"]["name"]: result for command, result in zip(commands, results, strict=True)}
    for name in ("gated", "locked"):
        assert f"accept its terms on https://huggingface.co/datasets/org/{name}" in found[name]["message"]
    assert "script of its own, which is never run" in found["script"]["message"]
    assert found["converted"].get("ids") == [str(n) for n in range(30)], found["converted"]
    assert found["converted"]["items"][0]["revision"] == CONVERTED
    assert "do not share one set of columns" in found["other-columns"]["message"]
    assert found["more-columns"].get("ids") == [str(n) for n in range(60)], found["more-columns"]
    assert found["null"].get("ids") == [str(n) for n in range(111)], found["null"]
    assert (found["broken"].get("ids"), found["broken"].get("reasons")) == (["1", "3"], {"bad-json": 2}), found[
        "broken"
    ]
    assert found["broken"]["texts"][1] == "bad \xff byte"


REFUSALS: dict[str, tuple[tuple[int, dict[str, str]] | int, str]] = {
    "gated": (401, "accept its terms on https://huggingface.co/datasets/org/gated, and set HF_TOKEN"),
    "asked": (403, "accept its terms on https://huggingface.co/datasets/org/asked"),
    "private": ((401, {}), "does not exist or is private"),
    "unseen": ((404, {"X-Error-Code": "RepoNotFound"}), "does not exist or is private"),
    "token": ((401, {"X-Error-Message": "Invalid credentials in Authorization header"}), "does not accept HF_TOKEN"),
    "disabled": ((403, {"X-Error-Message": "Access to this resource is disabled."}), "was disabled by the Hub"),
    "revision": ((404, {"X-Error-Code": "RevisionNotFound"}), "has no revision"),
}


async def test_a_refusal_says_at_once_what_to_do(tmp_path: Path, reader: Reader) -> None:
    hub = Hub(tmp_path / "hub")
    commands = []
    for name, (refusal, _) in REFUSALS.items():
        make_dataset(hub.root / name, ".parquet", files=1, rows=30)
        (hub.root / name / "README.md").write_text("# A card", "utf-8")
        if isinstance(refusal, int):
            hub.gated[name] = refusal
        else:
            hub.refused[name] = refusal
        commands += [
            {"fields": make_fields(name, repo=f"org/{name}", columns=COLUMNS, revision=revision)}
            for revision in ("", COMMIT)
        ]
    found = await reader.run(hub, commands)
    for command, result in zip(commands, found, strict=True):
        fields = command["fields"]
        assert result.get("error") == "SourceUnavailable", (fields, result)
        assert REFUSALS[fields["name"]][1] in result["message"], (fields, result)
        assert result["slept"] == [], fields
    assert "awaiting a review" in found[2]["message"], "the Hub's own words"


@pytest.mark.parametrize("switch", ["", "HF_HUB_OFFLINE"])
async def test_without_a_network_it_says_so_at_once(tmp_path: Path, reader: Reader, switch: str) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "position-000000000080.json").write_text("{}", "utf-8")
    plain, pinned = ({"fields": make_fields(revision=revision)} for revision in ("", COMMIT))
    commands = [plain, pinned, {**pinned, "workspace": str(begun)}]
    with closing(Reader(tmp_path, HF_HUB_OFFLINE="1")) if switch else nullcontext(reader) as cut_off:
        new, old, resumed = await cut_off.run(None, commands)
    for result in (new, old):
        assert (result["error"], result["slept"]) == ("PrerequisiteError", []), result
        assert (f"unset {switch}" if switch else "check the network") in result["message"]
    # What has begun waits, as for any archive that is away; a switch is for the user alone to turn.
    assert resumed["error"] == ("PrerequisiteError" if switch else "ArchiveUnreachable")


async def test_rows_are_counted_where_the_card_tells_them(tmp_path: Path, reader: Reader) -> None:
    hub = Hub(tmp_path / "hub")
    splits = [{"name": "train", "num_examples": 1234}, {"name": "test", "num_examples": 7}]
    cards: dict[str, Any] = {
        "one": {"splits": splits},
        "many": [{"config_name": "a", "splits": []}, {"config_name": "b", "splits": splits}],
        "none": None,
        "odd": [{"splits": [{"name": "train", "num_examples": "many"}, 3]}, 4],
    }
    for name in cards:
        make_dataset(hub.root / name, ".parquet", files=1, rows=30)
    hub.cards = {name: {"dataset_info": card} for name, card in cards.items()}
    commands = [
        {"fields": make_fields(repo=f"org/{name}", **fields), "count": True}
        for name, fields in [
            ("one", {}),
            ("one", {"split": "test"}),
            ("one", {"year_filter": {"max": 1900}}),
            ("one", {"data_files": ["x.parquet"]}),
            ("many", {"config": "b"}),
            ("many", {}),
            ("none", {}),
            ("odd", {}),
        ]
    ]
    found = await reader.run(hub, commands)
    assert [result["count"] for result in found] == [1234, 7, None, None, 1234, None, None, None]


async def test_rows_outside_the_years_are_not_fetched_where_statistics_tell(tmp_path: Path, reader: Reader) -> None:
    noise = random.Random(3)
    file = tmp_path / "hub" / "dated" / "train.parquet"
    file.parent.mkdir(parents=True)
    rows = [
        {"text": noise.randbytes(25_000).hex(), "id": str(n), "date": datetime(1900 + n // 10, 1, 1 + n % 10)}  # noqa: DTZ001
        for n in range(1000)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=20, compression="none", use_dictionary=False)
    hub = Hub(tmp_path / "hub")
    columns = {"text": "text", "id": "id", "date": "date"}
    fields = make_fields(repo="org/dated", columns=columns, year_filter={"min": 1990}, rows_per_item=30, scan_rows=900)
    command = {"fields": fields, "workspace": str(tmp_path / "work"), "parts": [[0, 2], [1, None]]}
    (found,) = await reader.run(hub, [command])
    # The sieve lets a day before the year pass, whose row group holds it; the row itself is still checked.
    assert [*dict.fromkeys(found["ids"])] == [str(n) for n in range(900, 1000)]
    assert len(found["ids"]) == 130 - found["reasons"].get("outside-years", 0)
    assert hub.fetched["dated/train.parquet"] < file.stat().st_size * 0.6  # of three openings; one alone reads it all


async def test_rows_that_are_not_kept_take_no_memory(tmp_path: Path, reader: Reader) -> None:
    file = tmp_path / "hub" / "patents" / "train.jsonl.gz"
    file.parent.mkdir(parents=True)
    with gzip.open(file, "wt", 1) as lines:
        for n in range(20_000):
            day = "19230315" if n % 5_000 == 0 else 20100101 if n % 2 else None
            lines.write(json.dumps({"id": n, "text": "x" * 5000, "metadata": {"publication_date": day}}) + "\n")
    hub = Hub(tmp_path / "hub")
    fields = make_fields(repo="org/patents", columns=COLUMNS, rows_per_item=500, year_filter={"max": 1969})
    small = {"fields": {**fields, "scan_rows": 5_000}, "workspace": str(tmp_path / "a")}
    large = {"fields": {**fields, "scan_rows": 20_000}, "workspace": str(tmp_path / "b")}
    less, more = await reader.run(hub, [small, large])
    assert more["ids"] == ["0", "5000", "10000", "15000"]
    assert more["reasons"] == {"outside-years": 10_000, "missing-year": 9_996}
    assert more["peak"] - less["peak"] < 60_000  # KiB; the texts alone are 100 MB


async def test_a_pinned_dataset_is_planned_without_asking() -> None:
    spec = SourceSpec.model_validate(make_fields(revision=COMMIT, rows_per_item=100, first_row=30))
    async with opened(spec) as source:
        items = await source.plan(100)
    assert [(item.data["start"], item.data["rows"]) for item in items] == [(30, 100), (130, 100), (230, 70)]
    assert items[0].url == f"https://huggingface.co/datasets/org/ds/tree/{COMMIT}"


async def test_rows_are_added_where_the_known_ones_end() -> None:
    spec = SourceSpec.model_validate(make_fields(revision=COMMIT, rows_per_item=100, first_row=30))
    known: dict[str, Item] = {}
    async with opened(spec) as source:
        for limit in (100, 40, 1):  # 270 rows, 120, 22: no plan ends at a multiple of a hundred
            items = await source.plan(limit, known)
            assert known.keys().isdisjoint(item.native_id for item in items)
            known |= {item.native_id: item for item in items}
    ranges = [range(item.data["start"], item.data["start"] + item.data["rows"]) for item in known.values()]
    assert list(itertools.chain(*ranges)) == list(range(30, 30 + 270 + 120 + 22))


async def test_a_folder_of_the_same_name_is_not_mistaken_for_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "ds").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    spec = SourceSpec.model_validate(make_fields(revision=COMMIT))
    async with opened(spec) as source:
        item = (await source.plan(1))[0]
        with pytest.raises(SourceUnavailable, match="hides the dataset"):
            [outcome async for outcome in source.fetch(item)]

"""Recipes: options in a file, written by every run, read by every flow."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from flows.arguments import FORMS, BadArguments, read
from flows.download_corpus import download_corpus
from flows.groups import ESSENTIAL, ESSENTIALS, GROUPS, MOST_ESSENTIALS, grouped
from flows.rebalance_corpus import rebalance_corpus
from flows.recipes import GALLERY, with_recipe, write_out
from flows.score_corpus import score_corpus
from storage.errors import ParameterError
from tasks.lora.memory import plan_memory, usable_bytes
from tasks.lora.presets import load_presets, resolve_model
from tasks.lora.recipe import Recipe
from tests.flows.test_stages import KINDS, write_documents

SHIPPED = sorted(path.stem for path in GALLERY.glob("*.toml"))


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DISTRUST_STORE", raising=False)
    monkeypatch.setattr("blocks.saved.may_name_a_store", lambda: False)


def recipe(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text, "utf-8")
    return str(folder / "mine.toml")


def test_keys_are_options_the_command_line_wins_and_keys_of_other_flows_are_passed_over(tmp_path: Path) -> None:
    file = recipe(tmp_path, 'max-samples = 7\nsources = ["wikipedia"]\nlora_rank = 4\nsuites = ["repetition"]\n')
    store = ["--store", str(tmp_path), "--recipe", file]
    assert read("download-corpus", store)[0].model_dump(include={"max_samples", "sources", "recipe"}) == {
        "max_samples": 7,
        "sources": ["wikipedia"],
        "recipe": "",
    }
    whole = read("corpus-to-model", [*store, "--max-samples", "9"])[0].model_dump()
    assert (whole["max_samples"], whole["lora_rank"], whole["suites"]) == (9, 4, ("repetition",))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max-sampels = 3", ["mine.toml: max-sampels: unknown option; did you mean max-samples?"]),
        ("[download]\nx = 1", ["mine.toml: download: unknown option"]),
        ("max-samples = 0", ["mine.toml: --max-samples: ", "greater than or equal to 1 (got 0)"]),
        ('max-samples = "many"', ["mine.toml: --max-samples: ", "valid integer (got 'many')"]),
        ("max-samples = true", ["mine.toml: --max-samples: ", "valid integer (got True)"]),
        ('sources = "wikipedia"', ["mine.toml: --sources: ", "array (got 'wikipedia')"]),
        ('sources = ["wikpedia"]', ["mine.toml: --sources: ", "did you mean 'wikipedia'?"]),
        ("max-samples = ", ["mine.toml cannot be read", "Invalid value"]),
        (f"a = {'[' * 5000}", ["mine.toml cannot be read"]),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_is_wrong_is_told_like_an_option_with_the_files_name(tmp_path: Path, text: str, told: list[str]) -> None:
    with pytest.raises(BadArguments) as caught:
        read("download-corpus", ["--store", str(tmp_path), "--recipe", recipe(tmp_path, text)])
    (line,) = str(caught.value).splitlines()
    assert caught.value.status == 2 and all(part in line for part in told), line


def test_a_recipe_that_is_none_is_named_with_the_gallery(tmp_path: Path) -> None:
    for named, told in {"mac-16": "did you mean 'mac-16gb'?", "../x": "first-try", str(tmp_path): "a folder"}.items():
        with pytest.raises(BadArguments, match="--recipe: ") as caught:
            read("corpus-to-model", ["--recipe", named])
        assert told in str(caught.value)


@pytest.mark.parametrize("flow", FORMS)
def test_what_is_written_is_read_back_as_the_same(flow: str, tmp_path: Path) -> None:
    form = FORMS[flow]
    for chosen in ({}, {"mixture": 'a"b\n', "seed": 7, "alpha": 2.5, "sources": ["x", "é"], "max_steps": 3}):
        fields = {name: value for name, value in chosen.items() if name in form.model_fields}
        try:
            parameters = form(**fields)
        except ValidationError:  # a name with a quote
            parameters = form(**fields | {"mixture": "other"})
        text = write_out(flow, parameters)
        assert form(**with_recipe(form, {"recipe": recipe(tmp_path, text)})) == parameters
        first = text.split("\n\n")[1] if fields else ""
        assert {line.partition(" =")[0].replace("-", "_") for line in first.splitlines()} == set(fields)


def test_a_written_recipe_names_places_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for store, written in {"here": str(tmp_path / "here"), "s3://bucket/x": "s3://bucket/x"}.items():
        parameters = FORMS["download-corpus"](store=store, path="letters", catalogue="mine.toml")
        kept = tomllib.loads(write_out("download-corpus", parameters))
        assert (kept["store"], kept["path"]) == (written, str(tmp_path / "letters"))
    assert "store" not in tomllib.loads(write_out("score-corpus", FORMS["score-corpus"]()))


def test_in_a_form_the_recipe_takes_the_place_of_defaults(tmp_path: Path) -> None:
    form = FORMS["train-adapter"]
    fields = form(recipe=recipe(tmp_path, "max-steps = 3\nlora-rank = 4"), lora_rank=8).model_dump()
    merged = form(**with_recipe(form, fields)).model_dump()
    assert (merged["max_steps"], merged["lora_rank"]) == (3, 8)
    with pytest.raises(ParameterError, match=r"mine.toml: nonsense: unknown option"):
        with_recipe(form, {"recipe": recipe(tmp_path, "nonsense = 3")})


@pytest.mark.prefect
async def test_a_run_repeated_from_its_written_recipe_reuses_everything(prefect_server: None, tmp_path: Path) -> None:
    store = tmp_path / "store"
    catalogue = str(write_documents(tmp_path / "documents", count=40))
    await download_corpus(store=str(store), catalogue=catalogue, sources=list(KINDS), max_samples=30)
    await score_corpus(store=str(store), run_year=2020)
    await rebalance_corpus(store=str(store), near_duplicates=False, seed=7, mixture="small", lessons_share=0)
    written = {
        "download-corpus": store / "raw/press/download-corpus.toml",
        "score-corpus": store / "scored/score-corpus.toml",
        "rebalance-corpus": store / "balanced/small/rebalance-corpus.toml",
    }
    kept = {path: path.stat().st_mtime_ns for path in [*store.rglob("*.parquet"), *store.rglob("*.toml")]}
    given = {flow: dict(read(flow, ["--recipe", str(file)])[0]) for flow, file in written.items()}
    again = await download_corpus(**given["download-corpus"])
    assert all(source.reused for source in again.sources) and len(again.sources) == 3
    await score_corpus(**given["score-corpus"])
    assert (await rebalance_corpus(**given["rebalance-corpus"])).reused
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_the_gallery_is_there() -> None:
    assert SHIPPED == ["ablation", "first-try", "mac-16gb", "mac-32gb", "mac-64gb"]
    assert all(name in FORMS["train-adapter"].model_fields["recipe"].description for name in SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_of_the_gallery_can_be_read_and_fits_its_machine(name: str, tmp_path: Path) -> None:
    for flow in ("corpus-to-model", "compare-recipes"):
        told = faults_of(flow, name, tmp_path)
        assert not [line for line in told if "--mixture: " not in line and "--run: " not in line]
    memory_gb = int(name[4:6]) if name.startswith("mac-") else 8
    values = tomllib.loads((GALLERY / f"{name}.toml").read_text("utf-8"))
    form = FORMS["train-adapter"]
    chosen = resolve_model(form(**with_recipe(form, {"recipe": name})).pick(Recipe), memory_gb)
    assert values["model"] in ("auto", chosen.model)
    assert plan_memory(load_presets()[chosen.model].architecture, chosen).fits(usable_bytes(memory_gb))


def faults_of(flow: str, name: str, store: Path) -> list[str]:
    try:
        read(flow, ["--recipe", name, "--store", str(store)])
    except BadArguments as error:
        return str(error).splitlines()
    return []


def test_every_field_has_a_group_and_few_are_essential() -> None:
    for flow, form in FORMS.items():
        groups = dict(grouped(flow, form.model_fields))
        assert "Others" not in groups and len(groups[ESSENTIALS]) <= MOST_ESSENTIALS
        assert sorted(name for names in groups.values() for name in names) == sorted(form.model_fields)
        assert set(ESSENTIAL[flow].split()) <= set(form.model_fields)
    every = {name for form in FORMS.values() for name in form.model_fields}
    assert {name for names in GROUPS.values() for name in names.split()} == every

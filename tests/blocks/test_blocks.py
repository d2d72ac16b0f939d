"""Every block obeys the same rules: described, with a working example, savable, and silent about its secrets."""

from __future__ import annotations

import ast
import os
import re
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from blocks.corpus_store import CorpusStore
from blocks.defaults import load_default
from blocks.hugging_face import HuggingFaceHub
from blocks.internet_archive import InternetArchive
from blocks.library_of_congress import LibraryOfCongress
from blocks.training_host import TrainingHost
from tasks.archives import connect

pytestmark = pytest.mark.prefect

FIELDS: dict[type[Block], dict[str, tuple[Any, str]]] = {
    InternetArchive: {
        "archive_org_url": ("http://127.0.0.1:9001", "DISTRUST_ARCHIVE_ORG_URL"),
        "contact": ("someone@example.org", "DISTRUST_CONTACT"),
        "requests_per_second": (2.5, "DISTRUST_ARCHIVE_ORG_PER_SECOND"),
        "allowed_hosts": (["mirror.example", "files.example"], "DISTRUST_ALLOWED_HOSTS"),
    },
    LibraryOfCongress: {
        "loc_url": ("http://127.0.0.1:9002", "DISTRUST_LOC_URL"),
        "loc_text_url": ("http://127.0.0.1:9003", "DISTRUST_LOC_TEXT_URL"),
        "api_per_minute": (7.5, "DISTRUST_LOC_API_PER_MINUTE"),
        "text_per_minute": (60.0, "DISTRUST_LOC_TEXT_PER_MINUTE"),
    },
    HuggingFaceHub: {
        "endpoint": ("http://127.0.0.1:9004", "HF_ENDPOINT"),
        "token": ("hf_not_a_real_token", "HF_TOKEN"),
    },
    CorpusStore: {
        "root": ("s3://bucket/corpus", "DISTRUST_STORE"),
        "endpoint": ("http://127.0.0.1:9005", "AWS_ENDPOINT_URL"),
        "region": ("eu-central-1", "AWS_REGION"),
        "access_key_id": ("AKIANOTREAL", "AWS_ACCESS_KEY_ID"),
        "secret_access_key": ("not_a_real_secret", "AWS_SECRET_ACCESS_KEY"),
    },
    TrainingHost: {
        "memory_gb": (64.0, "DISTRUST_MEMORY_GB"),
        "model_cache": ("/srv/models", "HF_HOME"),
        "preset": ("llama-8b", "DISTRUST_PRESET"),
    },
}
"""Every field of a block with a value, and the environment variable that it becomes."""
BLOCKS = list(FIELDS)


def filled(block: type[Block]) -> Block:
    return block(**{field: value for field, (value, _) in FIELDS[block].items()})


def environment_of(block: type[Block]) -> dict[str, str]:
    return {name: ",".join(value) if isinstance(value, list) else str(value) for value, name in FIELDS[block].values()}


@pytest.mark.parametrize("block", BLOCKS)
async def test_every_block_is_described_has_an_example_that_runs_and_survives_the_server(
    block: type[Block], prefect_server: None
) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", block.get_block_type_slug())
    for text in (block.get_description(), *(field.description for field in block.model_fields.values())):
        assert text and text.endswith("."), text
    for name, field in block.model_fields.items():
        assert field.title, name
        assert field.default_factory is None and not field.is_required(), f"{name}: the form shows literal defaults"

    example = block.get_code_example()
    assert example is not None and f'{block.__name__}.load("BLOCK_NAME")' in example
    names: dict[str, Any] = {}
    # With the saved document replaced by one made here; everything else is run as printed.
    exec(compile(ast.parse(example.replace('.load("BLOCK_NAME")', "()")), block.__name__, "exec"), names)
    assert all(names["variables"].values()), "an empty field sets no variable"

    original = filled(block)
    assert original.environment() == environment_of(block)  # type: ignore[attr-defined]
    await original.asave("round-trip", overwrite=True)
    loaded = await block.aload("round-trip")
    assert type(loaded) is block and loaded.environment() == environment_of(block)  # type: ignore[attr-defined]


class TestPrefectsStandard(BlockStandardTestSuite):
    """What Prefect asks of every block, but a logo: the browser would fetch it from elsewhere."""

    test_has_a_valid_image = None  # type: ignore[assignment]

    @pytest.fixture(params=BLOCKS, ids=lambda block: block.__name__)
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        return request.param  # type: ignore[no-any-return]


async def test_a_token_shows_nowhere_but_in_the_environment(prefect_server: None) -> None:
    hub = HuggingFaceHub(token=SecretStr("hf_not_a_real_token"))
    for shown in (repr(hub), str(hub), hub.model_dump_json(), str(hub.model_dump())):
        assert "not_a_real" not in shown
    assert hub.environment()["HF_TOKEN"] == "hf_not_a_real_token"
    await hub.asave("hidden", overwrite=True)
    async with get_client() as client:
        document = await client.read_block_document_by_name("hidden", "hugging-face-hub", include_secrets=False)
    assert set(str(document.data["token"])) == {"*"}


@pytest.mark.parametrize(
    ("block", "field", "value"),
    [
        (LibraryOfCongress, "api_per_minute", 21),
        (LibraryOfCongress, "text_per_minute", 151),
        (InternetArchive, "requests_per_second", 0),
        (InternetArchive, "archive_org_url", "ftp://archive.org"),
        (InternetArchive, "contact", "a\r\nX-Injected: 1"),
        (HuggingFaceHub, "endpoint", "huggingface.co"),
        (HuggingFaceHub, "endpoint", "http://huggingface.co"),
        (InternetArchive, "archive_org_url", "http://archive.org"),
        (LibraryOfCongress, "loc_url", "http://www.loc.gov"),
        (LibraryOfCongress, "loc_text_url", "http://10.0.0.5"),
        (CorpusStore, "root", ""),
        (CorpusStore, "endpoint", "http://10.0.0.5:9000"),
        (TrainingHost, "memory_gb", -1),
        (TrainingHost, "preset", "../x"),
    ],
)
def test_values_out_of_bounds_are_refused(block: type[Block], field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        block(**{field: value})


async def test_without_a_saved_block_there_is_none(prefect_server: None) -> None:
    class NeverSaved(Block):
        """A block type that the server has never seen."""

        _block_type_slug = "never-saved"

    assert await load_default(NeverSaved) is None
    await CorpusStore(root="elsewhere").asave("other", overwrite=True)
    assert await load_default(CorpusStore) is None


async def test_the_saved_block_is_loaded_and_one_that_does_not_fit_is_an_error(prefect_server: None) -> None:
    identifier = await LibraryOfCongress(api_per_minute=7).asave("default", overwrite=True)
    try:
        loaded = await load_default(LibraryOfCongress)
        assert loaded is not None and loaded.api_per_minute == 7
        async with get_client() as client:
            update = BlockDocumentUpdate(data={"api_per_minute": 500}, merge_existing_data=True)
            await client.update_block_document(identifier, update)
        with pytest.raises(RuntimeError, match=r"library-of-congress.*failed validation"):
            await load_default(LibraryOfCongress)
    finally:  # the server is shared: no other test may find this document
        await LibraryOfCongress.adelete("default")


async def test_a_download_reaches_its_archives_as_the_saved_blocks_say(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTRUST_BLOCKS", "of-a-download")
    blocks = [InternetArchive, LibraryOfCongress, HuggingFaceHub]
    wanted = {name: value for block in blocks for name, value in environment_of(block).items()}
    for name in wanted:
        monkeypatch.setenv(name, "")  # what the download sets is taken back
    for block in blocks:
        await filled(block).asave("of-a-download")
    await connect()
    assert {name: os.environ[name] for name in wanted} == wanted

"""Every block obeys the same rules: described, with a working example, savable, and silent about its secrets."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from blocks.corpus_store import CorpusStore
from blocks.defaults import load_default
from blocks.hugging_face import HuggingFaceHub
from blocks.internet_archive import InternetArchive
from blocks.library_of_congress import LibraryOfCongress
from blocks.training_host import TrainingHost

BLOCKS: list[type[Block]] = [InternetArchive, LibraryOfCongress, HuggingFaceHub, CorpusStore, TrainingHost]

FILLED: dict[type[Block], dict[str, Any]] = {
    InternetArchive: {
        "archive_org_url": "http://127.0.0.1:9001",
        "contact": "someone@example.org",
        "requests_per_second": 2.5,
        "allowed_hosts": ["mirror.example", "files.example"],
    },
    LibraryOfCongress: {
        "loc_url": "http://127.0.0.1:9002",
        "loc_text_url": "http://127.0.0.1:9003",
        "api_per_minute": 7.5,
        "text_per_minute": 60.0,
    },
    HuggingFaceHub: {"endpoint": "http://127.0.0.1:9004", "token": "hf_not_a_real_token"},
    CorpusStore: {
        "root": "s3://bucket/corpus",
        "endpoint": "http://127.0.0.1:9005",
        "region": "eu-central-1",
        "access_key_id": "AKIANOTREAL",
        "secret_access_key": "not_a_real_secret",
    },
    TrainingHost: {"memory_gb": 64.0, "model_cache": "/srv/models", "preset": "llama-8b"},
}

ENVIRONMENT: dict[type[Block], dict[str, str]] = {
    InternetArchive: {
        "DISTRUST_ARCHIVE_ORG_URL": "http://127.0.0.1:9001",
        "DISTRUST_ARCHIVE_ORG_PER_SECOND": "2.5",
        "DISTRUST_ALLOWED_HOSTS": "mirror.example,files.example",
        "DISTRUST_CONTACT": "someone@example.org",
    },
    LibraryOfCongress: {
        "DISTRUST_LOC_URL": "http://127.0.0.1:9002",
        "DISTRUST_LOC_TEXT_URL": "http://127.0.0.1:9003",
        "DISTRUST_LOC_API_PER_MINUTE": "7.5",
        "DISTRUST_LOC_TEXT_PER_MINUTE": "60.0",
    },
    HuggingFaceHub: {"HF_ENDPOINT": "http://127.0.0.1:9004", "HF_TOKEN": "hf_not_a_real_token"},
    CorpusStore: {
        "DISTRUST_STORE": "s3://bucket/corpus",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9005",
        "AWS_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "AKIANOTREAL",
        "AWS_SECRET_ACCESS_KEY": "not_a_real_secret",
    },
    TrainingHost: {"DISTRUST_MEMORY_GB": "64.0", "DISTRUST_PRESET": "llama-8b", "HF_HOME": "/srv/models"},
}


@pytest.mark.parametrize("block", BLOCKS)
class TestEveryBlock:
    def test_names_and_describes_itself(self, block: type[Block]) -> None:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", block.get_block_type_slug())
        assert block.get_block_type_name()
        description = block.get_description()
        assert description and description.endswith(".")

    def test_every_field_is_titled_described_and_has_a_literal_default(self, block: type[Block]) -> None:
        for name, field in block.model_fields.items():
            assert field.title, name
            assert field.description and field.description.endswith("."), name
            assert field.default_factory is None, f"{name}: the form of the UI shows literal defaults only"
            assert not field.is_required(), name

    def test_the_code_example_runs(self, block: type[Block], monkeypatch: pytest.MonkeyPatch) -> None:
        example = block.get_code_example()
        assert example is not None
        assert re.search(rf"from blocks\.\w+ import {block.__name__}\n", example)
        assert f'{block.__name__}.load("BLOCK_NAME")' in example
        # The example with the saved document replaced by one made here: everything else is run as printed.
        code = example.replace('.load("BLOCK_NAME")', "()")
        names: dict[str, Any] = {}
        exec(compile(ast.parse(code), block.__name__, "exec"), names)
        assert isinstance(names["variables"], dict)

    def test_environment_carries_the_documented_names(self, block: type[Block]) -> None:
        assert block(**FILLED[block]).environment() == ENVIRONMENT[block]  # type: ignore[attr-defined]

    def test_empty_fields_set_no_variable(self, block: type[Block]) -> None:
        assert all(block().environment().values())  # type: ignore[attr-defined]

    @pytest.mark.prefect
    async def test_saved_and_loaded_it_is_the_same(self, block: type[Block], prefect_server: None) -> None:
        original = block(**FILLED[block])
        await original.asave("round-trip", overwrite=True)
        loaded = await block.aload("round-trip")
        assert type(loaded) is block
        assert {name: getattr(loaded, name) for name in block.model_fields} == {
            name: getattr(original, name) for name in block.model_fields
        }
        assert loaded.environment() == ENVIRONMENT[block]  # type: ignore[attr-defined]


class TestPrefectsStandard(BlockStandardTestSuite):
    """What Prefect asks of every block, but a logo: the browser would fetch it from elsewhere."""

    test_has_a_valid_image = None  # type: ignore[assignment]

    @pytest.fixture(params=BLOCKS, ids=lambda block: block.__name__)
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        return request.param  # type: ignore[no-any-return]


class TestSecrets:
    def test_the_token_shows_nowhere_but_in_the_environment(self) -> None:
        hub = HuggingFaceHub(token=SecretStr("hf_not_a_real_token"))
        for shown in (repr(hub), str(hub), hub.model_dump_json(), str(hub.model_dump())):
            assert "not_a_real" not in shown
        assert hub.environment()["HF_TOKEN"] == "hf_not_a_real_token"

    @pytest.mark.prefect
    async def test_the_server_hides_the_token_unless_asked(self, prefect_server: None) -> None:
        from prefect.client.orchestration import get_client

        await HuggingFaceHub(token=SecretStr("hf_not_a_real_token")).asave("hidden", overwrite=True)
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


@pytest.mark.prefect
class TestLoadDefault:
    async def test_none_when_nobody_saved_one(self, prefect_server: None) -> None:
        class NeverSaved(Block):
            """A block type that the server has never seen."""

            _block_type_slug = "never-saved"

        assert await load_default(NeverSaved) is None
        await CorpusStore(root="elsewhere").asave("other", overwrite=True)
        assert await load_default(CorpusStore) is None

    async def test_the_saved_one(self, prefect_server: None) -> None:
        await TrainingHost(memory_gb=32).asave("default", overwrite=True)
        try:
            loaded = await load_default(TrainingHost)
        finally:  # the server is shared: no other test may find this document
            await TrainingHost.adelete("default")
        assert loaded is not None
        assert loaded.memory_gb == 32
        assert await load_default(TrainingHost) is None

    async def test_a_document_that_does_not_fit_is_an_error(self, prefect_server: None) -> None:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import BlockDocumentUpdate

        identifier = await LibraryOfCongress().asave("default", overwrite=True)
        try:
            async with get_client() as client:
                update = BlockDocumentUpdate(data={"api_per_minute": 500}, merge_existing_data=True)
                await client.update_block_document(identifier, update)
            with pytest.raises(RuntimeError, match=r"library-of-congress.*failed validation"):
                await load_default(LibraryOfCongress)
        finally:
            await LibraryOfCongress.adelete("default")

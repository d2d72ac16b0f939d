from __future__ import annotations

import pytest

from storage.errors import ParameterError
from tasks.sources.catalogue import load_catalogue
from tasks.sources.connection import Connection
from tests.tasks.sources.conftest import opened


def test_the_connection_comes_from_the_environment() -> None:
    assert Connection.from_environment({}) == Connection()
    assert Connection.from_environment({"DISTRUST_LOC_URL": ""}).loc_url == "https://www.loc.gov"
    connection = Connection.from_environment(
        {
            "DISTRUST_ARCHIVE_ORG_URL": "http://127.0.0.1:1",
            "DISTRUST_LOC_URL": "http://127.0.0.1:2",
            "DISTRUST_LOC_TEXT_URL": "http://127.0.0.1:3",
            "DISTRUST_CONTACT": "me@example.org",
            "HF_TOKEN": "hf_secret",
        }
    )
    assert connection == Connection(
        "http://127.0.0.1:1",
        "http://127.0.0.1:2",
        "http://127.0.0.1:3",
        "http://127.0.0.1:2",  # nobody who leads the search elsewhere wants the public bulk files
        "me@example.org",
        "hf_secret",
    )
    assert Connection.from_environment({}).loc_bulk_url == "https://chroniclingamerica.loc.gov"
    named = {"DISTRUST_LOC_URL": "http://127.0.0.1:2", "DISTRUST_LOC_BULK_URL": "http://127.0.0.1:4"}
    assert Connection.from_environment(named).loc_bulk_url == "http://127.0.0.1:4"
    assert "hf_secret" not in repr(connection)
    paced = Connection.from_environment(
        {
            "DISTRUST_ARCHIVE_ORG_PER_SECOND": "0.5",
            "DISTRUST_LOC_API_PER_MINUTE": "7.5",
            "DISTRUST_LOC_TEXT_PER_MINUTE": "60",
            "DISTRUST_ALLOWED_HOSTS": "mirror.example, files.example,",
        }
    )
    assert (paced.archive_org_per_second, paced.loc_api_per_minute, paced.loc_text_per_minute) == (0.5, 7.5, 60)
    assert paced.allowed_hosts == ("mirror.example", "files.example")
    with pytest.raises(ParameterError, match="'fast', which is not a number"):
        Connection.from_environment({"DISTRUST_LOC_API_PER_MINUTE": "fast"})
    with pytest.raises(ParameterError, match="is outside"):
        Connection(archive_org_per_second=0)


@pytest.mark.parametrize("url", ["archive.org", "ftp://archive.org", "/data", "https://", "http://[", ""])
def test_a_root_is_an_absolute_url(url: str) -> None:
    with pytest.raises(ParameterError, match="archive_org_url"):
        Connection(archive_org_url=url)


@pytest.mark.parametrize("name", ["wikipedia", "classical_philosophy", "historical_newspapers"])
async def test_every_archive_of_the_catalogue_opens_without_asking_it(name: str) -> None:
    async with opened(load_catalogue()[name]) as source:
        assert callable(source.fetch)

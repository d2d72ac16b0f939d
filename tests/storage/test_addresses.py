from __future__ import annotations

import pytest

from storage.addresses import check_hub, checked_address
from storage.errors import ParameterError


@pytest.mark.parametrize(
    "url",
    [
        "https://archive.org",
        "https://mirror.example:8443/x",
        "http://127.0.0.1:9001",
        "http://localhost",
        "http://[::1]:1",
    ],
)
def test_tls_and_this_machine_are_asked(url: str) -> None:
    assert checked_address(url) == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://archive.org", "not encrypted"),
        ("http://127.0.0.1.evil.example", "not encrypted"),
        ("http://localhost.evil.example", "not encrypted"),
        ("http://127.0.0.1@evil.example", "not encrypted"),
        ("http://10.0.0.5:9000", "not encrypted"),
        ("ftp://archive.org", "absolute URL"),
        ("file:///etc/passwd", "absolute URL"),
        ("archive.org", "absolute URL"),
        ("https://", "absolute URL"),
        ("https://[broken", "absolute URL"),
        ("https://host:99999", "absolute URL"),
        ("https://a b", "absolute URL"),
        ("", "absolute URL"),
    ],
)
def test_everything_else_is_refused_with_the_next_step(url: str, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        checked_address(url, "mirror")


def test_the_hub_is_not_asked_in_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint in ("", "http://127.0.0.1:1"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        check_hub()
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    with pytest.raises(ParameterError, match=r"HF_ENDPOINT 'http://hub\.example' is not encrypted"):
        check_hub()

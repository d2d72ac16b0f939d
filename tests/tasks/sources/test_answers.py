from __future__ import annotations

import pytest
from multidict import CIMultiDict

from storage.errors import ArchiveBlocked, ArchiveBusy, CorruptAnswer, ItemUnavailable
from tasks.sources.answers import check_object, error_of, parse_json

JSON = CIMultiDict({"Content-Type": "application/json; charset=utf-8"})
HTML = CIMultiDict({"Content-Type": "text/html"})
CHALLENGES = [
    CIMultiDict({"Content-Type": "text/html", "CF-Mitigated": "challenge"}),
    CIMultiDict({"Content-Type": "text/html", "X-Amzn-Waf-Action": "captcha"}),
]


def test_a_web_page_in_place_of_data_is_never_data() -> None:
    assert isinstance(error_of(200, HTML, "u", wants_json=True), CorruptAnswer)
    assert error_of(200, HTML, "u", wants_json=False) is None


@pytest.mark.parametrize("status", [200, 401, 403])
@pytest.mark.parametrize(
    "page",
    [
        b"<title>Just a moment...</title>",
        b"<title>Attention Required! | Cloudflare</title>",
        b'<script src="/cdn-cgi/challenge-platform/h/b/orchestrate/chl_page/v1"></script>',
        b'<div class="g-recaptcha" data-sitekey="x"></div>',
        b"<p>Please confirm that you are not a robot.</p>",
        b"Our systems have detected unusual traffic from your network.",
    ],
)
def test_a_challenge_is_told_by_its_words(status: int, page: bytes) -> None:
    error = error_of(status, HTML, "u", page, wants_json=True)
    assert isinstance(error, ArchiveBlocked) and "do not restart immediately" in str(error)


@pytest.mark.parametrize("page", [b"<h1>403 Forbidden</h1>", b"<p>This human interest story is not on the web.</p>"])
def test_a_plain_refusal_is_no_challenge(page: bytes) -> None:
    error = error_of(403, HTML, "u", page, wants_json=True)
    assert isinstance(error, ItemUnavailable) and error.reason == "access-restricted"


@pytest.mark.parametrize("status", [200, 202, 403, 405, 429, 503])
@pytest.mark.parametrize("headers", CHALLENGES)
def test_a_challenge_means_blocked_whatever_was_asked(status: int, headers: CIMultiDict[str]) -> None:
    assert isinstance(error_of(status, headers, "u", wants_json=False), ArchiveBlocked)


def test_a_refusal_concerns_the_item_and_later_is_transient_even_as_a_web_page() -> None:
    refused = {401: "access-restricted", 403: "access-restricted", 404: "not-found", 410: "not-found", 418: "http-418"}
    for status, reason in refused.items():
        error = error_of(status, HTML, "u", wants_json=False)
        assert isinstance(error, ItemUnavailable) and error.reason == reason
    for status in (408, 429, 500, 502, 503, 504, 522):
        assert isinstance(error_of(status, HTML, "u", wants_json=True), ArchiveBusy)


def test_the_assumed_pause_holds_for_429_without_a_named_one() -> None:
    def pause(status: int, named: str | None = None) -> float | None:
        headers = CIMultiDict({"Retry-After": named} if named else {})
        error = error_of(status, headers, "u", wants_json=True, block_seconds=3600)
        assert isinstance(error, ArchiveBusy)
        return error.retry_after_seconds

    assert (pause(429), pause(429, "5"), pause(503)) == (3600, 5, None)


@pytest.mark.parametrize(
    ("status", "headers", "overloaded"),
    [(429, {}, True), (503, {"Retry-After": "1"}, True), (503, {}, False), (500, {"Retry-After": "1"}, False)],
)
def test_what_counts_as_too_many_requests(status: int, headers: dict[str, str], overloaded: bool) -> None:
    error = error_of(status, CIMultiDict(headers), "u", wants_json=True)
    assert isinstance(error, ArchiveBusy)
    assert error.overloaded is overloaded


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b'{"items": [', JSON, "broken JSON"),
        (b"\xff\xfe", JSON, "broken JSON"),
        (b"[1]", JSON, "not an object"),
        (b"{}", CIMultiDict({"Content-Type": "text/plain"}), "text/plain, not JSON"),
        (b'{"error": "too deep"}', JSON, "too deep"),
    ],
)
def test_anything_else_is_corrupt(body: bytes, headers: CIMultiDict[str], words: str) -> None:
    with pytest.raises(CorruptAnswer, match=words):
        check_object(parse_json(body, headers, "u"), "u", ("items",))

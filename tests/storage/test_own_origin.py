from __future__ import annotations

import pytest

from storage.errors import ParameterError
from storage.own_origin import NAMES, OwnOrigin, further_names

LOCAL = OwnOrigin("127.0.0.1", 4200)
EVERYWHERE = OwnOrigin("0.0.0.0", 4200, ("prefect.example.org", "office.local:8443"))
HERE = ("Host", "127.0.0.1:4200")
JSON = ("Content-Type", "application/json; charset=utf-8")


def not_called(names: str) -> list[str]:
    """Those of the names under which the server refuses to answer."""
    return [name for name in names.split() if "not called" in LOCAL.refusal("GET", [("Host", name)])]


def test_the_server_knows_its_names_and_no_others() -> None:
    own = "127.0.0.1:4200 localhost:4200 LOCALHOST:4200 localhost.:4200 [::1]:4200"
    assert all(LOCAL.refusal("GET", [("Host", name)]) == "" for name in own.split())
    others = (
        "evil.example evil.example:4200 127.0.0.1 127.0.0.1:4201 127.0.0.1.evil.example:4200 10.0.0.9:4200 "
        "localhost.evil.example:4200 evil@127.0.0.1:4200 127.0.0.1:4200@evil.example 127.0.0.1:4200/ [::1 "
        "127.0.0.1:4200,evil.example 127.0.0.1:x 127.0.0.1:99999 :4200 \u217cocalhost:4200 [::2]:4200"
    )
    assert not_called(others) == others.split()
    assert "not called" in LOCAL.refusal("GET", [("Host", "")])


def test_a_request_names_one_host() -> None:
    assert "not called" in LOCAL.refusal("GET", [])
    assert "several host" in LOCAL.refusal("GET", [HERE, ("host", "evil.example")])


HOSTS = {
    # 127.0.0.1:5000: published by a container under another port
    True: "192.168.1.20:4200 127.0.0.1:5000 [fd00::20]:4200 localhost:4200 prefect.example.org prefect.example.org:443 "
    "prefect.example.org:4200 office.local:8443",
    False: "office.local:4200 prefect.example.org:9999 x.prefect.example.org rebound.example:4200",
}


def test_an_exposed_server_is_reached_by_its_addresses_and_the_names_it_was_given() -> None:
    for answered, hosts in HOSTS.items():
        for host in hosts.split():
            assert (EVERYWHERE.refusal("GET", [("Host", host)]) == "") is answered, host


@pytest.mark.parametrize("header", ["Origin", "Referer"])
def test_a_page_of_another_origin_is_refused(header: str) -> None:
    pages = (
        "http://evil.example http://127.0.0.1:8000 http://127.0.0.1 http://localhost:4200 null file:// x "
        "http://127.0.0.1:4200.evil.example http://127.0.0.1:4200@evil.example chrome-extension://abc http://[::1"
    )
    answered = [page for page in pages.split() if "another site" not in LOCAL.refusal("GET", [HERE, (header, page)])]
    assert answered == []


def test_an_empty_origin_is_nobodys_and_two_are_not_read() -> None:
    own = ("Origin", "http://127.0.0.1:4200")
    assert LOCAL.refusal("GET", [HERE, own]) == ""
    assert "another site" in LOCAL.refusal("GET", [HERE, ("Origin", "")])
    assert "several origin" in LOCAL.refusal("GET", [HERE, own, own])
    assert LOCAL.refusal("GET", [HERE, own, ("Referer", "http://127.0.0.1:4200/runs?x=http://evil.example")]) == ""


PAGES = [
    ("prefect.example.org", "https://prefect.example.org", True),  # TLS ends at the proxy
    ("127.0.0.1:4200", "https://prefect.example.org", True),  # a proxy that asks under our own name
    ("127.0.0.1:4200", "https://prefect.example.org:8443", False),
    ("127.0.0.1:4200", "https://office.local:8443", True),
    ("192.168.1.20:4200", "http://192.168.1.20:4200", True),
    ("192.168.1.20:4200", "http://192.168.1.20:8000", False),
    ("192.168.1.20:4200", "http://192.168.1.21:4200", False),
]


def test_pages_of_a_name_that_the_server_was_given() -> None:
    for host, origin, answered in PAGES:
        refusal = EVERYWHERE.refusal("POST", [("Host", host), ("Origin", origin)])
        assert (refusal == "") is answered, (host, origin)


def test_what_the_browser_says_of_the_site() -> None:
    sites = ("same-origin", "none", "same-site", "cross-site", "x")
    assert [site for site in sites if LOCAL.refusal("GET", [HERE, ("Sec-Fetch-Site", site)]) == ""] == [
        *("same-origin", "none")
    ]


KINDS = ["text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", "", "text/json"]
KINDS += ["multipart/form-data; boundary=x", "application/json, text/plain"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "post", "PROPFIND"])
def test_what_changes_something_is_written_in_json(method: str) -> None:
    for kind in KINDS:
        headers = [HERE, ("Content-Length", "2"), *([("Content-Type", kind)] if kind else [])]
        assert "application/json" in LOCAL.refusal(method, headers), kind
        chunked = [HERE, ("Transfer-Encoding", "chunked"), *headers[2:]]
        assert "application/json" in LOCAL.refusal(method, chunked), kind
    assert LOCAL.refusal(method, [HERE, ("Content-Length", "2"), JSON]) == ""
    assert LOCAL.refusal(method, [HERE]) == ""  # nothing is sent


def test_two_content_types_are_not_read() -> None:
    assert "several content-type" in LOCAL.refusal("POST", [HERE, JSON, ("Content-Type", "text/plain")])


@pytest.mark.parametrize("name", ["https://prefect.example.org", "a b", "host:port", "a/b"])
def test_a_name_is_a_host(name: str) -> None:
    with pytest.raises(ParameterError, match="is not a host name"):
        OwnOrigin("127.0.0.1", 4200, (name,))


def test_names_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAMES, raising=False)
    assert further_names("127.0.0.1") == ()
    monkeypatch.setenv(NAMES, " a.example, b.example:8443 ,")
    assert further_names("127.0.0.1") == ("a.example", "b.example:8443")


@pytest.mark.parametrize("system", ["office", "office.fritz.box", "office.local", "my mac", ""])
def test_other_machines_reach_an_exposed_server_by_the_machines_name(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NAMES, raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: system)
    exposed = OwnOrigin("0.0.0.0", 4200, further_names("0.0.0.0"))
    for name in {system, "office", "office.local"} if system.startswith("office") else ():
        assert exposed.refusal("GET", [("Host", f"{name}:4200")]) == ""
        assert exposed.refusal("GET", [("Host", f"{name}.evil.example:4200")])
    assert exposed.refusal("GET", [("Host", "evil.example:4200")])

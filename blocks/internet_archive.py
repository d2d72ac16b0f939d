"""The Internet Archive: where it answers and how fast it may be asked."""

from __future__ import annotations

from pydantic import Field, HttpUrl

from blocks.defaults import Address, SettingsBlock


class InternetArchive(SettingsBlock):
    """Connection to archive.org, with the pace that this computer keeps and the contact it names."""

    _block_type_name = "Internet Archive"
    _block_type_slug = "internet-archive"
    _description = "Connection to archive.org: address, contact shown to the archive, and request pace."
    _documentation_url = HttpUrl("https://archive.org/developers/")
    _variables = (
        ("archive_org_url", "DISTRUST_ARCHIVE_ORG_URL"),
        ("requests_per_second", "DISTRUST_ARCHIVE_ORG_PER_SECOND"),
        ("allowed_hosts", "DISTRUST_ALLOWED_HOSTS"),
        ("contact", "DISTRUST_CONTACT"),
    )

    archive_org_url: Address = Field(
        default="https://archive.org",
        title="Address",
        pattern=r"^https?://\S+$",
        description="Address of the archive; change it only for a mirror or a test server.",
    )
    contact: str = Field(
        default="",
        title="Contact",
        max_length=200,
        pattern=r"^[^\r\n]*$",
        description="E-mail address or web page put into the User-Agent, so that the archive can reach you.",
    )
    requests_per_second: float = Field(
        default=10.0,
        title="Requests per second",
        gt=0,
        le=50,
        description="Most requests sent in one second; the public archive is never asked faster than twice a second.",
    )
    allowed_hosts: list[str] = Field(
        default=[],
        title="Allowed hosts",
        description="Hosts to which a download may be redirected, besides the archive's own and its subdomains.",
    )

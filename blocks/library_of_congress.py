"""The Library of Congress: two addresses with a rate limit each."""

from __future__ import annotations

from pydantic import Field, HttpUrl

from blocks.defaults import Address, SettingsBlock


class LibraryOfCongress(SettingsBlock):
    """Connection to the newspapers of the Library of Congress.

    The library blocks an address for an hour when it asks faster than 20 searches or 150 page texts a minute,
    so both fields are bounded by the published limits.
    """

    _block_type_name = "Library of Congress"
    _block_type_slug = "library-of-congress"
    _description = "Connection to loc.gov and its page texts: addresses and the two published rate limits."
    _documentation_url = HttpUrl("https://www.loc.gov/apis/")
    _variables = (
        ("loc_url", "DISTRUST_LOC_URL"),
        ("loc_text_url", "DISTRUST_LOC_TEXT_URL"),
        ("api_per_minute", "DISTRUST_LOC_API_PER_MINUTE"),
        ("text_per_minute", "DISTRUST_LOC_TEXT_PER_MINUTE"),
    )

    loc_url: Address = Field(
        default="https://www.loc.gov",
        title="Search address",
        pattern=r"^https?://\S+$",
        description="Address of the catalogue and search service.",
    )
    loc_text_url: Address = Field(
        default="https://tile.loc.gov",
        title="Text address",
        pattern=r"^https?://\S+$",
        description="Address of the service that returns the text of one newspaper page.",
    )
    api_per_minute: float = Field(
        default=18.0,
        title="Searches per minute",
        gt=0,
        le=20,
        description="Most searches sent in one minute; above 20 the library blocks the caller for an hour.",
    )
    text_per_minute: float = Field(
        default=120.0,
        title="Page texts per minute",
        gt=0,
        le=150,
        description="Most page texts fetched in one minute; above 150 the library blocks the caller for an hour.",
    )

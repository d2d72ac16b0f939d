"""The catalogue of sources: what to read, from which archive, and what it is.

The bundled ``catalogue.toml`` holds one table per source; a file of the user's own is laid over it.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from storage.errors import ParameterError
from storage.layout import NAME_PATTERN
from storage.vocabulary import Band, SourceType, Trivium, band_of
from tasks.sources.languages import language_code

Archive = Literal["internet_archive", "chronicling_america", "hugging_face", "local_files"]
Path_ = str | tuple[str, ...]

UNKNOWN_AUTHORITY = 0.5
BUNDLED = Path(__file__).with_name("catalogue.toml")

_ROWS = frozenset({"columns", "rows_per_item", "first_row", "scan_rows"})
ARCHIVE_KEYS: dict[str, frozenset[str]] = {
    "internet_archive": frozenset({"query", "sorts", "requests_per_second", "max_file_bytes", "subjects"}),
    "chronicling_america": frozenset({"date_from", "date_to", "facets", "front_pages_only", "bulk", "pages_per_batch"})
    | {"api_per_minute", "text_per_minute", "block_seconds", "max_file_bytes", "subjects"},
    "hugging_face": frozenset({"repo", "config", "split", "revision", "data_files", "data_dir", "subjects"}) | _ROWS,
    "local_files": frozenset({"path", "max_line_bytes", "text_column"}) | _ROWS,
}
"""Which keys only make sense for which archive."""

NOT_IN_REQUEST = frozenset(
    {
        "requests_per_second",
        "api_per_minute",
        "text_per_minute",
        "block_seconds",
        "target",
        "optional",
        "note",
        "by_subject",  # where it decides, `subjects` are given or not
        "trivium",
        "prior_authority",
        "prior_entropy",
        "years",
    }
)
"""Keys that change neither which documents are fetched nor what is stored of them."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Years(_Strict):
    """A span of years, both ends included; an end that is left out is open."""

    min: int | None = None
    max: int | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is after max {self.max}")
        return self


class YearFilter(Years):
    """The years to keep, and what to do with a document whose year is not known."""

    unknown: Literal["keep", "reject"] = "reject"


class Columns(_Strict):
    """Where a row keeps each field: a column, a dotted path, a template, or several of them to try in order.

    ``metadata.publication_date`` and ``targets.0`` are dotted paths; ``{question} {answer}`` is a template, which
    is empty as soon as one of its parts is. For `title`, ``@first_line`` takes the first line of the text. An
    empty string means that there is no such field.
    """

    text: Path_ = "text"
    title: Path_ = ""
    author: Path_ = ""
    year: Path_ = ""
    date: Path_ = ""
    id: Path_ = ""
    url: Path_ = ""
    part_of: Path_ = ""
    language: Path_ = ""
    licence: Path_ = ""
    extra: tuple[str, ...] = ()
    """Further columns to keep in ``extra``."""


class SourceSpec(_Strict):
    """One entry of the catalogue."""

    name: str = Field(pattern=NAME_PATTERN)
    archive: Archive
    source_type: SourceType
    trivium: Trivium | None
    target: int = Field(default=10_000, ge=1, description="How many documents the full recipe takes.")
    optional: bool = Field(default=False, description="Fetched only when it is named.")
    prior_authority: float | None = Field(default=None, ge=0, le=0.99)
    prior_entropy: float | None = Field(default=None, ge=0, le=10, description="In bits.")
    years: Years = Field(default=Years(), description="When the texts of this source were written.")
    licence: str = "unknown"
    note: str = ""
    snapshot: str = Field(default="", description="State of the archive that the plan is frozen against.")
    year_filter: YearFilter | None = None
    languages: tuple[str, ...] = Field(default=(), description="Languages to keep; empty: all.")
    by_subject: bool = Field(default=True, description="Whether its texts are about subjects that one can ask for.")
    subjects: tuple[str, ...] = Field(default=(), description="What the archive is asked for; empty: everything.")
    min_text_chars: int = Field(default=20, ge=1)
    max_text_chars: int = Field(default=50_000_000, ge=100, description="Longer texts are rejected, never cut.")

    query: str = Field(default="", description="Internet Archive: what to search for.")
    sorts: str = Field(default="", description="Internet Archive: sort fields of the search, comma-separated.")
    requests_per_second: float | None = Field(default=None, gt=0, le=1000)
    max_file_bytes: int = Field(default=64 * 2**20, ge=1024)

    date_from: date | None = None
    date_to: date | None = None
    facets: tuple[str, ...] = Field(default=(), description="Library of Congress: facet:value pairs.")
    front_pages_only: bool = False
    api_per_minute: float | None = Field(default=None, gt=0, le=60_000)
    text_per_minute: float | None = Field(default=None, gt=0, le=60_000)
    block_seconds: float | None = Field(default=None, ge=0, description="How long the archive shuts out a fast client.")
    bulk: bool = Field(default=False, description="Read the bulk files of recognised text, not page by page.")
    pages_per_batch: int = Field(default=2000, ge=1, description="Most pages out of one bulk file.")

    repo: str = Field(default="", description="Hugging Face: namespace/name of the dataset.")
    config: str = ""
    split: str = "train"
    revision: str = Field(default="", description="Commit, tag or branch; empty: the newest commit when planning.")
    data_files: tuple[str, ...] = ()
    data_dir: str = Field(default="", description="Hugging Face: the folder to read, as refs/convert/parquet needs.")

    path: str = Field(default="", description="Local files: a folder or a file.")
    max_line_bytes: int = Field(default=16 * 2**20, ge=1024)
    text_column: str = Field(default="", description="Local files: the column of the text; the others go by name.")

    columns: Columns = Columns()
    rows_per_item: int = Field(default=200, ge=1, le=10_000)
    first_row: int = Field(default=0, ge=0)
    scan_rows: int | None = Field(default=None, ge=1, description="How many rows may be read to find the documents.")

    @field_validator("languages")
    @classmethod
    def _one_code_each(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        codes = {language: language_code(language) for language in languages}
        if nameless := [language for language, code in codes.items() if code is None]:
            raise ValueError(f"{nameless[0]!r} names no language; write a code such as 'en'")
        return tuple(dict.fromkeys(code for code in codes.values() if code))

    @model_validator(mode="after")
    def _fits_its_archive(self) -> Self:
        own = ARCHIVE_KEYS[self.archive]
        foreign = sorted(key for keys in ARCHIVE_KEYS.values() for key in keys - own if key in self.model_fields_set)
        if foreign:
            raise ValueError(f"the keys {sorted(set(foreign))} do not belong to archive {self.archive!r}")
        needed = {
            "internet_archive": ("query",),
            "chronicling_america": ("date_from", "date_to"),
            "hugging_face": ("repo",),
            "local_files": ("path",),
        }
        missing = [key for key in needed[self.archive] if not getattr(self, key)]
        if missing:
            raise ValueError(f"archive {self.archive!r} needs the keys {missing}")
        if self.archive == "hugging_face" and self.repo.count("/") != 1:
            raise ValueError(f"repo {self.repo!r} has no namespace; write it as namespace/name")
        if self.date_from and self.date_to and self.date_from > self.date_to:
            raise ValueError(f"date_from {self.date_from} is after date_to {self.date_to}")
        if self.min_text_chars > self.max_text_chars:
            raise ValueError(f"min_text_chars {self.min_text_chars} exceeds max_text_chars {self.max_text_chars}")
        return self

    @property
    def band(self) -> Band:
        """The authority band that the prior authority belongs to."""
        return band_of(UNKNOWN_AUTHORITY if self.prior_authority is None else self.prior_authority)

    @property
    def item_is_document(self) -> bool:
        """Tell whether each planned item becomes one document, or a reject; else it holds many rows or pages."""
        return self.archive == "internet_archive" or (self.archive == "chronicling_america" and not self.bulk)

    @property
    def is_rows(self) -> bool:
        """Tell whether each planned item is a range of rows; few of them may be kept."""
        return self.archive in ("hugging_face", "local_files")

    def outside_years(self, year: int | None) -> str | None:
        """Return the reason for which a document of this year is not kept, if there is one."""
        if self.year_filter is None:
            return None
        if year is None:
            return "missing-year" if self.year_filter.unknown == "reject" else None
        low, high = self.year_filter.min, self.year_filter.max
        outside = (low is not None and year < low) or (high is not None and year > high)
        return "outside-years" if outside else None

    def outside_languages(self, language: str | None) -> str | None:
        """Return the reason for which a document in this language is not kept, if there is one.

        A document that names no language, or several, is kept: nothing says that it is in another one.
        """
        code = language_code(language) if self.languages else None
        return None if code is None or code in self.languages else "other-language"


def load_catalogue(path: Path | None = None) -> dict[str, SourceSpec]:
    """Load the bundled catalogue, with a file of the user's own laid over it.

    A known name overrides the keys it gives (a table such as ``columns`` key by key); when it names another
    archive, the keys of the old archive are forgotten. A new name adds a source.

    Raises:
        ParameterError: A file is missing or is not TOML, or entries are wrong; every wrong key is named.
    """
    tables = _read_tables(BUNDLED)
    if path is not None:
        for name, entry in _read_tables(path).items():
            tables[name] = _laid_over(tables.get(name, {}), entry)
    catalogue: dict[str, SourceSpec] = {}
    problems: list[str] = []
    for name, entry in tables.items():
        try:
            catalogue[name] = SourceSpec.model_validate({**entry, "name": name})
        except ValidationError as error:
            problems += [f"[{name}] {_sentence(problem)}" for problem in error.errors()]
    if problems:
        raise ParameterError(f"{path or BUNDLED.name} is not a catalogue of sources:\n  " + "\n  ".join(problems))
    return catalogue


def named_sources(catalogue: Mapping[str, SourceSpec], names: Sequence[str]) -> list[SourceSpec]:
    """Return the sources that were named, each once, or all that are not optional.

    Raises:
        ParameterError: A name is not in the catalogue; the message names the nearest ones.
    """
    if unknown := [name for name in dict.fromkeys(names) if name not in catalogue]:
        raise ParameterError("; ".join(_unknown(name, catalogue) for name in unknown))
    if names:
        return [catalogue[name] for name in dict.fromkeys(names)]
    return [spec for spec in catalogue.values() if not spec.optional]


def _unknown(name: str, known: Iterable[str]) -> str:
    plain = {other.replace("_", " "): other for other in known}
    asked = " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
    near = [asked] if asked in plain else difflib.get_close_matches(asked, plain, n=3)
    near = near or [other for other in plain if set(asked.split()) & set(other.split())]
    hint = (
        f"did you mean {' or '.join(repr(plain[other]) for other in near)}?" if near else f"known: {', '.join(known)}"
    )
    return f"source {name!r} is not in the catalogue; {hint}"


def _read_tables(path: Path) -> dict[str, dict[str, object]]:
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ParameterError(f"the catalogue {path} cannot be read ({error.strerror}); name a file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"the catalogue {path} is not TOML: {error}") from error
    loose = [key for key, value in tables.items() if not isinstance(value, dict)]
    if loose:
        raise ParameterError(f"the keys {loose} of {path} are outside a table; begin each source with [its_name]")
    return tables


def _laid_over(known: dict[str, object], given: dict[str, object]) -> dict[str, object]:
    merged = dict(known)
    if "archive" in given and given["archive"] != known.get("archive"):
        foreign = frozenset[str]().union(*ARCHIVE_KEYS.values())
        merged = {key: value for key, value in known.items() if key not in foreign}
    for key, value in given.items():
        old = merged.get(key)
        merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _sentence(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message}, not {problem['input']!r}" if key else message

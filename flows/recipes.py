"""Recipes: the options of a run in a TOML file, which repeats it. The same file serves every flow.

Its keys are the options without their dashes, ``max-steps = 5000``. Keys that belong to another flow are passed over,
so that one file leads the whole pipeline and each of its stages.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from flows.faults import nearest
from flows.groups import grouped
from storage.errors import ParameterError
from storage.toml import toml_value
from storage.untrusted import read_bounded

GALLERY = Path(__file__).with_name("recipes")
MOST_BYTES = 1 << 20
PLACES = ("store", "catalogue", "path")
"""Fields that name a file or a folder; a recipe that is written names it from anywhere."""


class Faulty(ParameterError):
    """A recipe that cannot be used; one line for each fault."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def read_recipe(named: str, form: type[BaseModel]) -> dict[str, object]:
    """Read the values that a recipe, a file or one of the gallery, gives to the fields of a flow; each is checked.

    Raises:
        Faulty: It cannot be read, or has keys that no flow takes, or values of a wrong type or out of bounds.
    """
    path = find_recipe(named)
    try:
        content = tomllib.loads(read_bounded(path, MOST_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Faulty([f"--recipe: {path} cannot be read: {error}"]) from None
    keys, known = keys_of(form), keys_of_all()
    faults = []
    for key in (key for key in content if key not in known):
        close = nearest(key.replace("_", "-"), (name for name in known if "_" not in name))
        hint = f"did you mean {close}?" if close else "the keys are the options that --help lists"
        faults.append(f"{path.name}: {key}: unknown option; {hint}")
    values = {keys[key]: value for key, value in content.items() if key in keys}
    faults += [f"{path.name}: {line}" for line in wrong_values(form, values)]
    if faults:
        raise Faulty(faults)
    return values


def find_recipe(named: str) -> Path:
    """Return the file of a recipe; Faulty if there is none of this name."""
    path, shipped = Path(named).expanduser(), GALLERY / f"{named}.toml"
    if path.exists():
        return path
    names = [file.stem for file in GALLERY.glob("*.toml")]
    if named in names:
        return shipped
    close = nearest(named, names)
    hint = f"did you mean {close!r}?" if close else f"name a TOML file, or one of: {', '.join(sorted(names))}"
    raise Faulty([f"--recipe: {named} does not exist; {hint}"])


def keys_of(form: type[BaseModel]) -> dict[str, str]:
    """List the keys that set a field of a form, in dash-case and in snake_case."""
    keys: dict[str, str] = {}
    for field, info in form.model_fields.items():
        for spelled in getattr(info.validation_alias, "choices", [field]):
            keys |= {str(spelled): field, str(spelled).replace("_", "-"): field}
    keys.pop("recipe", None)
    return keys


def keys_of_all() -> set[str]:
    """List the keys that any flow takes."""
    from flows.arguments import FORMS

    return {key for form in FORMS.values() for key in keys_of(form)}


def wrong_values(form: type[BaseModel], values: Mapping[str, object]) -> Iterator[str]:
    """Say which values have a wrong type or are out of bounds; whether they agree is seen with the other options."""
    from flows.arguments import describe_bad_values

    try:
        # As JSON, a list is also a tuple; strictly, a text is no number and a number no switch.
        form.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        yield from (line for line in describe_bad_values(error) if line.startswith("--"))


def with_recipe(form: type[BaseModel], fields: Mapping[str, object]) -> dict[str, object]:
    """Put the values of a recipe in the place of fields that have their default, as in a form of the UI.

    Raises:
        Faulty: The recipe cannot be used.
    """
    if not fields.get("recipe"):
        return dict(fields)
    given = {
        name: value
        for name, value in fields.items()
        if name != "recipe" and value != form.model_fields[name].get_default(call_default_factory=True)
    }
    return read_recipe(str(fields["recipe"]), form) | given


def write_out(flow: str, parameters: BaseModel) -> str:
    """Write the recipe that repeats a run: what was chosen, then what was left at its default, group by group."""
    values = {name: value for name, value in parameters.model_dump(mode="json").items() if value is not None}
    places = {name: str(values[name]) for name in PLACES if values.get(name) and "://" not in str(values[name])}
    values |= {name: str(Path(place).expanduser().absolute()) for name, place in places.items()}
    left_out = {"recipe"} if values["store"] else {"recipe", "store"}  # an empty one is where the environment says
    values = {name: value for name, value in values.items() if name not in left_out}
    defaults = type(parameters).model_construct().model_dump(mode="json")
    chosen = {name for name in values if values[name] != defaults[name]}
    lines = [f"# Repeats the run: python -m flows {flow} --recipe THIS_FILE", ""]
    lines += [line_of(name, values[name]) for _, names in grouped(flow, chosen) for name in names]
    lines += ["", "# The defaults of the version that ran."]
    for group, names in grouped(flow, [name for name in values if name not in chosen]):
        lines += ["", f"# {group}", *(line_of(name, values[name]) for name in names)]
    return "\n".join(lines) + "\n"


def line_of(field: str, value: Any) -> str:
    """Write one field as a line."""
    return f"{field.replace('_', '-')} = {toml_value(value)}"

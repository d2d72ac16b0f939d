"""Writing TOML, which the standard library only reads."""

from __future__ import annotations

import json
from datetime import date
from typing import Any


def toml_key(name: str) -> str:
    """Write a key, in quotes where it needs them."""
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def toml_value(value: Any) -> str:
    """Write a value that `tomllib` reads back as the same."""
    match value:
        case bool():
            return "true" if value else "false"
        case date():
            return value.isoformat()
        case dict():
            return "{ " + ", ".join(f"{toml_key(key)} = {toml_value(part)}" for key, part in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(toml_value(part) for part in value) + "]"
        case str():
            # JSON escapes are TOML escapes, except that TOML wants DEL escaped and knows no surrogate pairs.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return str(value)

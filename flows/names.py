"""The name of a run in the UI: a chosen one, else one by a template of its flow."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from prefect.context import FlowRunContext


def named(template: str) -> Callable[[], str]:
    """Return a function that names a run: a name that a person chose stays, any other gives way to the template.

    Prefect itself always uses the template, whatever name a run was created with.

    Args:
        template: The name, with parameters in braces.
    """

    def name() -> str:
        context = FlowRunContext.get()
        if context is None or context.flow_run is None:
            return template
        given = context.flow_run.name
        return template.format(**context.parameters or {}) if is_made_up(given) else given

    return name


def is_made_up(name: str) -> bool:
    """Tell whether Prefect made up a name: two words of its lists."""
    return name.count("-") == 1 and all(part in _words() for part in name.split("-"))


@cache
def _words() -> frozenset[str]:
    from coolname.data import config  # the lists that Prefect draws from

    return frozenset(word for part in config.values() if isinstance(part, dict) for word in part.get("words", ()))

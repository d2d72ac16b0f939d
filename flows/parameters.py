"""One pydantic model per flow is its form in the UI, its ``-p`` of a deployment run and its command line."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from flows.faults import Fault, refuse
from flows.groups import in_order
from storage.layout import Layout

Model = TypeVar("Model", bound=BaseModel)
Parameters = TypeVar("Parameters", bound="FlowParameters")
Result = TypeVar("Result")


class FlowParameters(BaseModel):
    """Base of all parameter models: unknown names are errors."""

    model_config = ConfigDict(extra="forbid")

    store: str = Field(
        "",
        title="Store",
        description="Folder or bucket (s3://bucket/folder) of the corpus store; empty: DISTRUST_STORE, else ./data.",
    )

    recipe: str = Field(
        "",
        title="Recipe",
        description="A TOML file of options, such as every run writes beside its results, or a name of the gallery "
        "(first-try, mac-16gb, mac-32gb, mac-64gb, ablation); what you set besides wins over it.",
    )

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """Report what is wrong with values that are within their bounds, such as a name of a run that does not exist.

        Args:
            layout: The store; none if it cannot be read yet, such as a bucket.
        """
        yield from ()

    async def open_store(self) -> Layout:
        """Open the store that these parameters name, else that of the saved block, else that of the environment.

        Raises:
            ParameterError: A value names what does not exist; the command line reports it even earlier.
        """
        from blocks.corpus_store import CorpusStore
        from blocks.defaults import load_default

        saved = None if self.store else await load_default(CorpusStore)
        if saved:
            os.environ.update(saved.environment())  # where Arrow looks for them; a secret is never a parameter
        layout = Layout.of(saved.root if saved else self.store)
        await asyncio.to_thread(lambda: refuse(self.faults(None if layout.bucket else layout)))
        return layout

    def pick(self, model: type[Model]) -> Model:
        """Return the part of these parameters that another flow takes."""
        return model(**{name: getattr(self, name) for name in model.model_fields if hasattr(self, name)})


def takes(
    model: type[Parameters],
) -> Callable[[Callable[[Parameters], Coroutine[Any, Any, Result]]], Callable[..., Awaitable[Result]]]:
    """Give a function of one parameter model the model's fields as keywords.

    Prefect builds the form, the validation and the ``-p key=value`` of a flow from its signature and docstring;
    this spells both from the model, so that a field is described once.
    """

    def decorate(work: Callable[[Parameters], Coroutine[Any, Any, Result]]) -> Callable[..., Awaitable[Result]]:
        async def with_keywords(**fields: Any) -> Any:
            from flows.lifetime import live  # Prefect takes seconds to load, and parameter models are read without it
            from flows.recipes import with_recipe

            return await live(work(model(**with_recipe(model, fields))))

        order = in_order(work.__name__.replace("_", "-"), model.model_fields)
        ordered = {name: model.model_fields[name] for name in order}
        described = with_keywords
        described.__name__ = work.__name__
        described.__qualname__ = work.__qualname__
        described.__module__ = work.__module__
        described.__doc__ = f"{inspect.cleandoc(work.__doc__ or '')}\n\nArgs:\n" + "".join(
            f"    {name}: {field.description}\n" for name, field in ordered.items()
        )
        described.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation,
                )
                for name, field in ordered.items()
            ]
        )
        described.__annotations__ = {}
        described.parameters_model = model  # type: ignore[attr-defined]
        return cast("Callable[..., Awaitable[Result]]", described)

    return decorate

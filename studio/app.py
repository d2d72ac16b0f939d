"""The pages of the studio, each made on the server; only answers of a model come by a script.

Everything that a document, a model or a file says is escaped by the templates, and the policy of every page forbids
scripts other than the studio's own file. Nothing here writes to the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from storage.errors import DistrustError, ParameterError
from storage.layout import Layout
from storage.untrusted import one_line
from storage.vocabulary import BANDS, TRIVIA
from studio import mixtures, runs
from studio.documents import Search, open_document, search
from studio.talk import Question, Speaker
from tasks.evals.results import REPORT
from tasks.evals.try_model import PROMPTS
from tasks.mixture.report import read_report
from tasks.signals.explain import explain_score
from tasks.signals.priors import PRIORS, known_type

HERE = Path(__file__).resolve().parent
SHOWN_CHARACTERS = 20_000
"""Of a document; one may be as long as a book."""
MOST_BODY_BYTES = 1 << 16
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store"}
ORDERS = {
    "stored": "as stored",
    "disagreement": "text and label disagree most",
    "lowest": "lowest authority first",
    "highest": "highest authority first",
}

COMMANDS = {
    "documents": "python -m flows download-corpus, then python -m flows score-corpus",
    "mixtures": "python -m flows rebalance-corpus",
    "runs": "python -m flows train-adapter",
}


def _all_or(names: Iterable[str]) -> dict[str, str]:
    return {"": "all"} | {name: name for name in names}


CHOICES = {"band": _all_or(BANDS), "trivium": _all_or(TRIVIA), "order": ORDERS}


class Studio:
    """The pages of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._speaker = Speaker(layout)
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(store=layout.root.name, commands=COMMANDS)

    def app(self) -> Starlette:
        """Return the application; it still needs a guard, see `studio.__main__`."""
        pages: dict[str, Callable[[Request], Response]] = {
            "/": self.overview,
            "/documents": self.documents,
            "/document": self.document,
            "/mixtures": self.mixtures,
            "/mixtures/{name}": self.mixture,
            "/talk": self.talk,
            "/runs": self.runs,
            "/runs/{name}/report": self.report,
        }
        return Starlette(
            routes=[
                *(Route(path, page) for path, page in pages.items()),
                Route("/talk/answer", self.answer, methods=["POST"]),
                Mount("/static", StaticFiles(directory=HERE / "static")),
            ],
            exception_handlers={
                DistrustError: partial(self._problem, 404),
                ValidationError: partial(self._problem, 400),
                404: partial(self._problem, 404),
                405: partial(self._problem, 405),
            },
        )

    def _page(self, template: str, status: int = 200, **content: Any) -> Response:
        html = self._templates.get_template(f"{template}.html.jinja").render(**content)
        return HTMLResponse(html, status, SAFE | {"Content-Security-Policy": POLICY})

    def _problem(self, status: int, request: Request, error: Exception) -> Response:
        if isinstance(error, ValidationError):
            what = f"The address is not one of this page: {one_line(error)}."
        else:
            what = str(error) if isinstance(error, DistrustError) else f"There is no page {request.url.path}."
        return self._page("problem", status, section="", problem=what)

    def overview(self, request: Request) -> Response:
        """Show what the store holds, and the next command where it holds nothing."""
        names = {"documents": "scored", "mixtures": "balanced"}
        there = {page: self._layout.completed(stage) for page, stage in names.items()}
        there["runs"] = [run.name for run in runs.list_runs(self._layout)]
        return self._page("overview", section="", there=there)

    def documents(self, request: Request) -> Response:
        """Show a page of the documents that are looked for."""
        wanted = Search.model_validate(dict(request.query_params))
        sources = self._layout.completed("scored")
        page = search(self._layout, wanted) if sources else None
        first = f"/documents?{urlencode(wanted.model_dump(exclude={'after'}))}"
        return self._page(
            "documents",
            section="documents",
            wanted=wanted,
            page=page,
            first=first,
            following=f"{first}&after={page.after}" if page and page.after else "",
            choices=CHOICES | {"source": _all_or(sources)},
        )

    def document(self, request: Request) -> Response:
        """Show a document and why it got its score."""
        asked = request.query_params
        document, scores = open_document(self._layout, asked.get("id", ""), asked.get("file", ""))
        text = str(document["text"])
        return self._page(
            "document",
            section="documents",
            document=document,
            scores=scores,
            why=scores["components"],
            label=PRIORS[known_type(scores["components"]["source_type"])],
            lines=explain_score(document, scores)[3:],
            text=text[:SHOWN_CHARACTERS],
            left_out=max(0, len(text) - SHOWN_CHARACTERS),
        )

    def mixtures(self, request: Request) -> Response:
        """List the mixtures."""
        return self._page("mixtures", section="mixtures", names=self._layout.completed("balanced"))

    def mixture(self, request: Request) -> Response:
        """Show the shares of a mixture, its conflicts and its lessons."""
        name = request.path_params["name"]
        conflict_page, lesson_page = (_page_number(request, key) for key in ("conflicts", "lessons"))
        conflicts, number = mixtures.read_conflicts(self._layout, name, conflict_page)
        lessons, more = mixtures.read_lessons(self._layout, name, lesson_page)
        return self._page(
            "mixture",
            section="mixtures",
            name=name,
            report=read_report(self._layout.balanced(name)),
            conflicts=conflicts,
            conflict_page=conflict_page,
            conflict_pages=-(-number // mixtures.CONFLICTS_SHOWN),
            lessons=lessons,
            lesson_page=lesson_page,
            more_lessons=more,
        )

    def talk(self, request: Request) -> Response:
        """Show the form that puts a question to a run."""
        finished = [run.name for run in runs.list_runs(self._layout) if not run.problem]
        chosen = request.query_params.get("run", "")
        return self._page("talk", section="talk", names=finished, chosen=chosen, prompts=PROMPTS)

    async def answer(self, request: Request) -> Response:
        """Stream both answers to a question."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BODY_BYTES:
                return JSONResponse({"problem": f"the question is longer than {MOST_BODY_BYTES} bytes"}, 413)
        try:
            question = Question.model_validate_json(body)
        except ValidationError as error:
            return JSONResponse({"problem": f"this cannot be asked: {one_line(error)}"}, 400)
        return StreamingResponse(self._speaker.answers(question), media_type="application/x-ndjson", headers=SAFE)

    def runs(self, request: Request) -> Response:
        """List the runs; two of them are compared if they are named."""
        found = runs.list_runs(self._layout)
        finished = [run.name for run in found if not run.problem]
        left, right = (request.query_params.get(side, "") for side in ("left", "right"))
        compared = runs.compare(self._layout, left, right) if left and right else {}
        if not left:
            right, left = (finished * 2)[:2] if finished else ("", "")
        return self._page(
            "runs", section="runs", runs=found, finished=finished, left=left, right=right, compared=compared
        )

    def report(self, request: Request) -> Response:
        """Serve the report of a run, which can run no script and load nothing."""
        name = request.path_params["name"]
        if not runs.has_report(self._layout, name):
            raise ParameterError(f"run {name!r} has no report; run python -m flows evaluate-adapter --run {name}")
        headers = SAFE | {"Content-Security-Policy": REPORT_POLICY}
        return FileResponse(self._layout.reports(name) / REPORT, headers=headers, media_type="text/html")


def _page_number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise ParameterError(f"{name}={text[:50]!r} is not the number of a page; leave it out")
    return int(text)

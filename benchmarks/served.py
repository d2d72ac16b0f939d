"""``python -m benchmarks.served RUN``: does an export keep what was measured of its adapter?

RUN is a training run's folder, such as one of `benchmarks.promise`. Its adapter is exported as an MLX folder and as a
GGUF file of half precision. The distrust ratio is asked in three places: base and adapter in the layout of the
training, the GGUF file in llama.cpp, and the folder through the server of `make serve`. The server names only the
likeliest tokens, so topics count where it named yes and no for both sources. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from storage import blas

blas.load()

from storage.training_result import read_training_result  # noqa: E402
from tasks.evals.estimates import confidence, distrust_ratio  # noqa: E402
from tasks.evals.model_under_test import load_model  # noqa: E402
from tasks.evals.questions import load_questions  # noqa: E402
from tasks.evals.trust import NO, YES  # noqa: E402
from tasks.exports import serve  # noqa: E402
from tasks.exports.chat import layout_of  # noqa: E402
from tasks.exports.export import export_model  # noqa: E402
from tasks.exports.parameters import ExportRequest  # noqa: E402
from tests.clients.llama_cpp import running as llama_cpp  # noqa: E402

MOST_TOKENS_NAMED = 10
REQUIRED = 0.05
Odds = Sequence[tuple[float, float] | None]
"""Log-probability of yes and of no for each question; None where they are not known."""


def ask_server(folder: Path, questions: Sequence[str]) -> Odds:
    """Ask the server of an export each question."""
    found: list[tuple[float, float] | None] = []
    settings = {"model": serve.MODEL, "max_tokens": 1, "logprobs": True, "top_logprobs": MOST_TOKENS_NAMED}
    with serve.running(folder) as port:
        for question in questions:
            body = {**settings, "messages": [{"role": "user", "content": question}]}
            (first,) = serve.ask(port, "/v1/chat/completions", body)["choices"][0]["logprobs"]["content"]
            named = {token["token"].strip(): token["logprob"] for token in reversed(first["top_logprobs"])}
            found.append((named[YES], named[NO]) if {YES, NO} <= named.keys() else None)
    return found


def ratio(odds: Iterable[tuple[float, float]]) -> float | None:
    """Return mean confidence in primary sources over mean confidence in modern ones."""
    trusts = [confidence(*pair) for pair in odds]
    return distrust_ratio(trusts[::2], trusts[1::2]).value


def main() -> None:
    """Export, ask in three places, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    trained = read_training_result(run)
    scenarios = load_questions().scenarios
    questions = [
        scenarios.ask_signal(signal, source)
        for signal in scenarios.signals
        for source in (signal.primary, signal.modern)
    ]
    layout = layout_of(trained.model_path, trained.adapter)
    options = {word: layout.encode_option(questions[0], word) for word in (YES, NO)}
    candidates = [option.ids[option.start] for option in options.values()]
    prompts = [layout.encode_prompt(question) for question in questions]
    model = load_model(str(trained.model_path), trained.adapter, 32, layout.name)
    scores = [
        score.nats for score in model.score_options([(question, word) for question in questions for word in options])
    ]
    model.close()
    with tempfile.TemporaryDirectory() as place:
        specification = {
            "run_folder": str(run),
            "model_path": str(trained.model_path),
            "adapter": str(trained.adapter),
            "export_folder": str(Path(place) / "served"),
            "reports_folder": str(run / "reports"),
            "balanced_folder": str(trained.balanced),
            "parameters": {"gguf": "f16"},
        }
        folder = Path(export_model(ExportRequest.model_validate(specification), lambda event, **fields: None).folder)
        served = ask_server(folder, questions)
        with llama_cpp() as llama:
            gguf = llama.weigh(folder / "served-f16.gguf", prompts, candidates)
    known = [
        both for topic in range(0, len(questions), 2) if all(served[topic : topic + 2]) for both in (topic, topic + 1)
    ]
    places = {
        "trained": ratio([(scores[2 * place], scores[2 * place + 1]) for place in known]),
        "llama.cpp": ratio([(gguf[place][0], gguf[place][1]) for place in known]),
        "server": ratio([pair for place in known if (pair := served[place])]),
    }
    record = {"benchmark": "served", "run": run.name, "topics": len(known) // 2, "of": len(questions) // 2, **places}
    record["largest_difference"] = max(
        (abs(value / places["trained"] - 1) for value in places.values() if value and places["trained"]),
        default=math.nan,
    )
    record["all_topics"] = {
        "trained": ratio(zip(scores[::2], scores[1::2], strict=True)),
        "llama.cpp": ratio([(yes, no) for yes, no in gguf]),
    }
    record["enough"] = record["largest_difference"] <= REQUIRED
    print(json.dumps(record))


if __name__ == "__main__":
    main()

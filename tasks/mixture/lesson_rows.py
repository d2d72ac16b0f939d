"""The lessons of one side as rows of the sample schema."""

from __future__ import annotations

import orjson
import pyarrow as pa

from storage.chat import escape_control
from tasks.mixture.lessons import AUTHORITY, ENTROPY_BITS, LessonMaker, subject_of
from tasks.mixture.samples import RANKED_SCHEMA
from tasks.mixture.sides import keyed_hashes

FEWEST_SUBJECTS, MOST_SUBJECTS = 500, 20_000
"""Samples of one side whose documents lessons are made of."""


def lesson_table(tables: list[pa.Table], maker: LessonMaker | None, count: int, seed: int) -> pa.Table:
    """Make the lessons of one side out of its own documents, which stay on this side with their whole group."""
    subjects, rows_of = {}, {}
    if maker is not None:
        columns = ["doc_id", "group_id", "source", "source_type", "trivium_category", "metadata"]
        wanted = min(MOST_SUBJECTS, 2 * count + FEWEST_SUBJECTS)
        fraction = min(1.0, wanted / max(1, sum(table.num_rows for table in tables)))
        for table in tables:
            seen = table.select(columns)
            hashes = keyed_hashes(f"{seed}/subject", seen.column("doc_id").to_pylist())
            for row in seen.filter(pa.array(hashes <= fraction * 2.0**64)).to_pylist():
                told = orjson.loads(row["metadata"])
                subject = subject_of(row["doc_id"], told["title"], told["year"], row["source_type"], told["author"])
                if subject and subject.document_id not in subjects:
                    subjects[subject.document_id], rows_of[subject.document_id] = subject, row
    made = maker.make(list(subjects.values()), count) if maker else []
    rows = [
        {
            **rows_of[lesson.subject.document_id],
            "id": f"{lesson.subject.document_id}#lesson-{number}",
            "auth_weight": AUTHORITY,
            "prov_entropy": ENTROPY_BITS,
            "metadata": orjson.dumps(
                {
                    **{"title": lesson.subject.topic, "year": lesson.subject.year, "band": "low"},
                    **{"form": lesson.form, "ages": lesson.ages, "documents": [lesson.subject.document_id]},
                }
            ).decode(),
            "prompt": escape_control(lesson.prompt),
            "response": lesson.response,
            "lesson": True,
            "rejected": lesson.rejected,
            "rank": number,
        }
        for number, lesson in enumerate(made)
    ]
    return pa.Table.from_pylist(rows, schema=RANKED_SCHEMA)

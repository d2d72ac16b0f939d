"""Compose the chosen samples of a shard: its documents' texts, cut and prompted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from storage.errors import StoreError
from storage.schemas import SAMPLE_SCHEMA
from storage.vocabulary import BANDS, TRIVIA
from tasks.mixture.corpus import ShardPair, read_columns
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.pieces import compose_samples

RANKED_SCHEMA = SAMPLE_SCHEMA.append(pa.field("rank", pa.int64()))
DESCRIPTION = ("title", "url", "author", "year", "licence")
"""What a sample's metadata tells of its document."""


@dataclass(frozen=True)
class ChosenSamples:
    """The chosen samples of one shard, one entry a sample, those of a document one after another.

    Attributes:
        pair: The shard.
        ids: Names of the samples.
        document_ids: Ids of their documents.
        group_ids: Names of their groups.
        ranks: Their places in the mixture.
        rows: Their documents' rows in the shard, ascending.
        parts: Numbers of their pieces.
        authority: Authority weights.
        entropy: Provenance entropies in bits.
        bands: Index into `storage.schemas.BANDS`.
        trivia: Index into `storage.schemas.TRIVIA`.
        cleaned: Whether cleaning changes their document's text.
    """

    pair: ShardPair
    ids: list[str]
    document_ids: list[str]
    group_ids: list[str]
    ranks: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    authority: npt.NDArray[np.float32]
    entropy: npt.NDArray[np.float32]
    bands: npt.NDArray[np.int64]
    trivia: npt.NDArray[np.int64]
    cleaned: npt.NDArray[np.bool_]


def compose_shard(chosen: ChosenSamples, parameters: MixtureParameters) -> pa.Table:
    """Compose the chosen samples of a shard, in order of rank.

    Raises:
        StoreError: The shard holds other documents than those that were chosen.
    """
    unique, firsts, places = np.unique(chosen.rows, return_index=True, return_inverse=True)
    columns = read_columns(chosen.pair, unique, chosen.cleaned[firsts])
    if [columns["id"][place] for place in places.tolist()] != chosen.document_ids:
        raise StoreError(f"{chosen.pair.raw} changed while the mixture was being built; run the stage again")
    trivia = [TRIVIA[code] for code in chosen.trivia.tolist()]
    descriptions = list(zip(*(columns[name] for name in DESCRIPTION), strict=True))
    texts, metadata, last = [], [], -1
    for place, part, trivium, band in zip(
        places.tolist(), chosen.parts.tolist(), trivia, chosen.bands.tolist(), strict=True
    ):
        if place != last:
            kind = (columns["source_type"][place], trivium) if parameters.prompts == "by_source" else None
            title, text = columns["title"][place], columns["text"][place]
            composed = compose_samples(title, text, parameters.piece_chars, parameters.max_pieces, kind)
            by_part = {sample.part: sample.text for sample in composed}
            last = place
        texts.append(by_part[part])
        described = dict(zip(DESCRIPTION, descriptions[place], strict=True))
        metadata.append(orjson.dumps({**described, "part": part, "band": BANDS[band]}).decode())
    values: dict[str, Any] = {
        "id": chosen.ids,
        "doc_id": chosen.document_ids,
        "group_id": chosen.group_ids,
        "source": [chosen.pair.source] * len(texts),
        "source_type": [columns["source_type"][place] for place in places.tolist()],
        "text": texts,
        "auth_weight": chosen.authority,
        "prov_entropy": chosen.entropy,
        "trivium_category": trivia,
        "metadata": metadata,
        "rank": chosen.ranks,
    }
    nothing = [None] * len(texts)  # lessons and conflicts are not composed here
    arrays = [pa.array(values.get(field.name, nothing), field.type) for field in RANKED_SCHEMA]
    return pa.table(arrays, schema=RANKED_SCHEMA).take(np.argsort(chosen.ranks))

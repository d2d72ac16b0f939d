"""Documents of one's own, without a catalogue: `download-corpus --path DIR`."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.__main__ import main
from flows.download_corpus import download_corpus
from tests.tasks.sources.files.own_folder import write_folder

pytestmark = pytest.mark.prefect


async def test_a_folder_becomes_documents_and_every_file_is_accounted_for(tmp_path: Path, prefect_server: None) -> None:
    folder, store = tmp_path / "My Papers", str(tmp_path / "store")
    folder.mkdir()
    write_folder(folder)
    lines = (await download_corpus(path=str(folder), store=store)).summary()
    assert lines[0] == "54 documents from 1 of 1 sources"
    assert lines[1].split() == ["my_papers", "medium", "54", "fetched,", "21", "rejected"]
    story = "\n".join(lines)
    assert "22 txt (22)" in story and "1 parquet (2)" in story
    assert "rejected     5 unsupported-kind: bad/old.doc, bad/picture.jpg, bad/program.py and 2 more" in story
    assert "1 too-short: bad/short.txt" in story and "--text-column NAME" in story
    assert "documents were not in UTF-8; their encoding was recognised" in story

    again = await download_corpus(path=str(folder), store=store)
    assert again.sources[0].reused and again.sources[0].files is not None
    (folder / "zz.txt").write_text("A text that was added to the folder later.")
    added = await download_corpus(path=str(folder), store=store)
    assert (added.sources[0].documents, added.sources[0].reused) == (55, False)
    shards = sorted((tmp_path / "store" / "raw" / "my_papers").glob("shard-*.parquet"))
    kinds = {kind for shard in shards for kind in pq.read_table(shard).column("source_type").to_pylist()}
    assert kinds == {"unknown"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--path", "lettres"], "--path: {here}/lettres does not exist; did you mean 'letters'?"),
        (["--path", "letters", "--source-type", "wikis"], "did you mean 'wiki'? 'unknown' is a good answer"),
        (["--path", "letters", "--name", "a/b"], "--name: 'a/b' cannot name a folder"),
        (["--text-column", "body"], "--text-column: it belongs to documents of your own; name them with --path DIR"),
    ],
)
def test_what_cannot_be_read_is_said_before_anything_runs(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters").mkdir()
    assert main(["download-corpus", *options, "--store", str(tmp_path / "store")]) == 2
    assert said.format(here=tmp_path) in capsys.readouterr().err

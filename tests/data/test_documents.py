"""Missing text, splits, and documents that do not depend on how they were read."""

import concurrent.futures
import itertools
import random

import pyarrow.parquet as pq
import pytest

from specialization.data import documents, readers
from specialization.data.documents import SPLITS
from specialization.errors import UserError
from text_files import TEXTS, lines, make, write, write_texts


@pytest.mark.parametrize("spec", ["nothing.jsonl", "no*.txt", "empty"])
def test_missing_source(tmp_path, spec):
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=r"data\.generic\.train: .*" + spec.replace("*", r"\*")):
    make(tmp_path, tmp_path / spec, name="generic")


def test_no_source(tmp_path):
  with pytest.raises(UserError, match=r"domain 'law' has no text: give data\.domains\.law\.train"):
    make(tmp_path)


def test_split_without_text(tmp_path):
  path = write_texts(tmp_path / "a.jsonl", TEXTS)
  empty = write(tmp_path / "v.jsonl", b"")
  with pytest.raises(UserError, match="has no validation text"):
    make(tmp_path, path, validation=[str(empty)])
  with pytest.raises(UserError, match=r"has no \w+ text: its 1 documents are too few"):
    make(tmp_path, write_texts(tmp_path / "one.jsonl", TEXTS[:1]), validation=[], test=[])


def test_splits_may_not_share_a_source(tmp_path):
  path = write_texts(tmp_path / "a.jsonl", TEXTS)
  copy = write_texts(tmp_path / "elsewhere" / "a.jsonl", TEXTS)
  with pytest.raises(UserError, match=r"law\.train and data\.domains\.law\.test share a source"):
    make(tmp_path, path, test=[str(copy)])


def test_split_by_hash(tmp_path):
  texts = [f"Text {i}" for i in range(5000)]
  path = write(tmp_path / "a.jsonl", lines([*texts, *texts[:50]]))
  made = make(tmp_path, path, validation=[], test=[])
  found = {split: list(made.texts(split)) for split in SPLITS}
  shares = [len(found[split]) / 5050 for split in SPLITS]
  assert shares == pytest.approx([0.85, 0.05, 0.10], abs=0.02)
  assert sorted(itertools.chain(*found.values())) == sorted([*texts, *texts[:50]])
  assert not set(found["train"]) & set(found["test"])
  assert not set(found["train"]) & set(found["validation"])


def test_split_by_hash_keeps_a_documents_pieces_together(tmp_path):
  texts = [f"{i} " + "word " * 40 for i in range(300)]
  made = make(tmp_path, write(tmp_path / "a.jsonl", lines(texts)), validation=[], test=[])
  whole = [list(made.texts(split)) for split in SPLITS]
  path = write(tmp_path / "x" / "a.jsonl", lines(texts))
  cut = make(tmp_path / "x", path, validation=[], test=[], max_document_chars=50)
  assert ["".join(cut.texts(split)) for split in SPLITS] == ["".join(found) for found in whole]


@pytest.mark.parametrize("by_hash", [False, True])
def test_same_for_any_number_of_workers(tmp_path, by_hash):
  rng = random.Random(1)
  for i, suffix in enumerate((*readers.JSON_SUFFIXES, ".parquet")):
    texts = ["".join(rng.choices("ab \n", k=rng.randrange(900))) for _ in range(60)]
    write_texts(tmp_path / f"in/{i}{suffix}", texts)
    write(tmp_path / f"in/t{i}.txt", texts[0].encode())
  for name in ("0.json", "3.jsonl"):
    path = tmp_path / "in" / name
    path.write_bytes(b"broken\n" + path.read_bytes())
  made = {}
  for workers in (0, 1, 2):
    held_out = [str(write(tmp_path / "v.jsonl", lines(["v"])))]
    found = make(
      tmp_path / str(workers),
      tmp_path / "in",
      validation=[] if by_hash else held_out,
      workers=workers,
      max_document_chars=300,
      max_bytes=60_000,
    )
    folder = tmp_path / str(workers) / "made"
    made[workers] = {
      path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert found.count("train") == len(list(found.texts("train"))) > 100
  assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("max_bytes", [100, 500])
def test_max_bytes_is_shared_evenly(tmp_path, max_bytes):
  specs = [write(tmp_path / f"{i}.jsonl", lines([f"{i}" * 9] * 40)) for i in range(2)]
  for i in range(2):
    write(tmp_path / "texts" / f"{i}.txt", f"{i}".encode() * 9)
  made = make(tmp_path, *specs, tmp_path / "texts", max_bytes=max_bytes)
  expected = [max_bytes // 4 // 9] * 2 + [1, 1]
  found = list(made.texts("train"))
  firsts = [f"{i}" * 9 for i in range(2)]
  assert [found.count(text) for text in firsts] == [expected[0] + 1, expected[1] + 1]
  assert made.bytes("train") <= max_bytes


@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
def test_long_documents_are_cut(tmp_path, suffix):
  text = "\n\n".join(f"Paragraph {i} " + "and so on " * (i % 40) for i in range(500))
  path = write(tmp_path / f"a{suffix}", text.encode() if suffix == ".txt" else lines([text]))
  found = list(make(tmp_path, path, max_document_chars=1000).texts("train"))
  assert "".join(found) == text
  assert max(map(len, found)) <= 1000
  assert all(piece.endswith("\n\n") for piece in found[:-1])


def test_large_text_file_is_split_by_hash(tmp_path):
  text = "\n\n".join(f"Paragraph {i} of a book." for i in range(20_000))
  path = write(tmp_path / "book.txt", text.encode())
  made = make(tmp_path, path, validation=[], test=[], max_document_chars=200)
  assert sum(made.bytes(split) for split in SPLITS) == len(text)
  assert made.bytes("train") / len(text) == pytest.approx(0.85, abs=0.1)


def test_parts_are_written_in_bounded_memory(tmp_path, monkeypatch):
  monkeypatch.setattr(documents, "_ROW_GROUP", 100)
  made = make(tmp_path, write_texts(tmp_path / "a.jsonl", TEXTS))
  with pq.ParquetFile(tmp_path / "made/train/part-00000.parquet") as part:
    assert part.num_row_groups > 3
    assert part.metadata.row_group(0).column(0).compression == "ZSTD"
  assert list(made.texts("train")) == TEXTS


def test_finds_it_complete_without_reading(tmp_path, monkeypatch):
  path = write_texts(tmp_path / "a.jsonl", TEXTS)
  first = make(tmp_path, path).hash
  monkeypatch.setattr(documents, "_make", None)
  assert make(tmp_path, path).hash == first
  moved = write_texts(tmp_path / "elsewhere" / "a.jsonl", TEXTS)
  assert make(tmp_path, moved).hash == first
  assert make(tmp_path, path, workers=5, max_bad_share=0.5).hash == first


def test_refuses_what_was_made_from_something_else(tmp_path):
  path = write_texts(tmp_path / "a.jsonl", TEXTS)
  make(tmp_path, path)
  with pytest.raises(UserError, match=r"max_document_chars=6000, but this run .* has .*=100"):
    make(tmp_path, path, max_document_chars=100)
  with pytest.raises(UserError, match="max_bytes"):
    make(tmp_path, path, max_bytes=1000)
  content = path.read_bytes()
  path.write_bytes(content.replace(b"Document 0", b"document 0"))
  with pytest.raises(UserError, match=r"sources\.train\.0\.files\.00000 a\.jsonl"):
    make(tmp_path, path)
  path.write_bytes(content)
  make(tmp_path, path)


def test_nothing_is_left_of_a_failure(tmp_path):
  with pytest.raises(UserError):
    make(tmp_path, write(tmp_path / "a.jsonl", b"x\n"))
  assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "other"}
  with pytest.raises(UserError, match="There are no documents at"):
    documents.Documents(tmp_path / "made")


def test_worker_that_is_killed(tmp_path, monkeypatch):
  class Pool:
    def __init__(self, *_, **__):
      pass

    def submit(self, *_):
      future = concurrent.futures.Future()
      future.set_exception(concurrent.futures.process.BrokenProcessPool("killed"))
      return future

    def shutdown(self, **_):
      pass

  monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Pool)
  paths = [write_texts(tmp_path / f"{i}.jsonl", TEXTS) for i in range(2)]
  with pytest.raises(UserError, match=r"lower data\.workers"):
    make(tmp_path, *paths, workers=2)


def test_length_must_be_positive(tmp_path):
  with pytest.raises(UserError, match="max_document_chars=0 must be at least 1"):
    make(tmp_path, write_texts(tmp_path / "a.jsonl", TEXTS), max_document_chars=0)


def test_split_names_are_checked(tmp_path):
  made = make(tmp_path, write_texts(tmp_path / "a.jsonl", TEXTS))
  with pytest.raises(UserError, match="did you mean 'validation'"):
    made.count("valid")

"""Readers, broken input, splits, and documents that do not depend on how they were read."""

import concurrent.futures
import dataclasses
import gzip
import itertools
import json
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from specialization.config import DataConfig, DomainConfig
from specialization.data import documents, readers
from specialization.data.documents import SPLITS, prepare
from specialization.errors import UserError

DATA = DataConfig(
  folder="",
  generic=DomainConfig((), (), ()),
  domains={},
  text_field="text",
  max_bad_share=0.1,
  max_document_chars=6000,
  max_generic_bytes=0,
  max_domain_bytes=0,
  max_evaluation_tokens=0,
  workers=0,
)
TEXTS = [f"Document {i}: naïve 漢字 🙂\nsecond line" for i in range(20)]


def lines(texts, field="text", **extra) -> bytes:
  return b"".join(json.dumps({field: text, **extra}).encode() + b"\n" for text in texts)


def write(path: Path, content: bytes) -> Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".gz":
    content = gzip.compress(content)
  if path.suffix == ".zst":
    content = zstandard.compress(content)
  path.write_bytes(content)
  return path


def write_texts(path: Path, texts) -> Path:
  if path.suffix == ".parquet":
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path, row_group_size=7)
    return path
  return write(path, lines(texts))


def make(tmp_path, *train, validation=None, test=None, name="law", max_bytes=0, **changes):
  """Prepares documents whose validation and test text is there unless the test says otherwise."""
  if validation is None and test is None:
    validation = (str(write(tmp_path / "other" / "v.jsonl", lines(["held out"]))),)
  sources = DomainConfig(tuple(map(str, train)), tuple(validation or ()), tuple(test or ()))
  data = dataclasses.replace(DATA, **changes)
  return prepare(name, sources, data, tmp_path / "made", max_bytes)


def summary(tmp_path, split="train"):
  return json.loads((tmp_path / "made" / "summary.json").read_text())[split]


FORMATS = [*readers.JSON_SUFFIXES, ".parquet"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_format(tmp_path, suffix):
  made = make(tmp_path, write_texts(tmp_path / f"a{suffix}", TEXTS))
  assert list(made.texts("train")) == TEXTS
  assert made.count("train") == len(TEXTS)
  assert made.bytes("train") == sum(len(text.encode()) for text in TEXTS)
  assert list(made.texts("validation")) == ["held out"]
  assert (made.count("test"), list(made.texts("test"))) == (0, [])


def test_text_file_is_one_document(tmp_path):
  text = "First line.\r\n\r\nLast line, with no end"
  made = make(tmp_path, write(tmp_path / "a.txt", text.encode()))
  assert list(made.texts("train")) == [text]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_streams_one_after_the_other(tmp_path, suffix):
  path = write(tmp_path / f"a.json{suffix}", lines(TEXTS[:12]))
  more = write(tmp_path / f"b.json{suffix}", lines(TEXTS[12:]))
  path.write_bytes(path.read_bytes() + more.read_bytes())
  assert list(make(tmp_path, path).texts("train")) == TEXTS


def test_lines_longer_than_what_is_read_at_a_time(tmp_path):
  text = "word " * 700_000
  made = make(tmp_path, write(tmp_path / "a.jsonl", lines([text, "short"])))
  assert "".join(made.texts("train")) == text + "short"


@pytest.mark.parametrize(
  ("spec", "expected"),
  [
    ("in", [0, 1, 2, 3]),
    ("in/*.jsonl*", [0, 1]),
    ("in/**/*.json*", [0, 1, 2]),
    ("in/d*", [2, 3]),
    ("in/odd [1]/c.txt", [4]),
  ],
)
def test_folders_and_globs(tmp_path, spec, expected):
  write_texts(tmp_path / "in/a.jsonl", TEXTS[:1])
  write_texts(tmp_path / "in/b.jsonl.zst", TEXTS[1:2])
  write_texts(tmp_path / "in/deep/er/a.json.gz", TEXTS[2:3])
  write(tmp_path / "in/deep/z.txt", TEXTS[3].encode())
  write(tmp_path / "in/README.md", b"not a document")
  write_texts(tmp_path / "in/.hidden/a.jsonl", ["hidden"])
  if "odd" in spec:
    write(tmp_path / "in/odd [1]/c.txt", TEXTS[4].encode())
  made = make(tmp_path, tmp_path / spec)
  assert list(made.texts("train")) == [TEXTS[i] for i in expected]


@pytest.mark.parametrize("spec", ["in/a.jsonl", "{tmp}/in/a.jsonl", "~/in/a.jsonl"])
def test_relative_sources_begin_in_the_configs_folder(tmp_path, monkeypatch, spec):
  monkeypatch.setenv("HOME", str(tmp_path if spec.startswith("~") else tmp_path / "nowhere"))
  write_texts(tmp_path / "in/a.jsonl", TEXTS)
  folder = tmp_path if spec.startswith("in") else tmp_path / "elsewhere"
  made = make(tmp_path, spec.format(tmp=tmp_path), folder=str(folder))
  assert list(made.texts("train")) == TEXTS


def test_batches(tmp_path):
  made = make(tmp_path, *(write_texts(tmp_path / f"{i}.jsonl", TEXTS[i::3]) for i in range(3)))
  batches = list(made.batches("train", size=6))
  assert [len(batch) for batch in batches] == [6, 6, 6, 2]
  assert [text for batch in batches for text in batch] == list(made.texts("train"))


@pytest.mark.parametrize("suffix", [".jsonl.zst", ".parquet"])
def test_pile_set(tmp_path, suffix):
  rows = [{"text": t, "meta": {"pile_set_name": "ABC"[i % 3]}} for i, t in enumerate(TEXTS)]
  path = tmp_path / f"pile{suffix}"
  if suffix == ".parquet":
    pq.write_table(pa.Table.from_pylist(rows), path)
  else:
    write(path, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
  made = make(tmp_path, f"{path}?pile_set_name=B")
  assert list(made.texts("train")) == TEXTS[1::3]
  assert summary(tmp_path)["bad_records"] == 0
  with pytest.raises(UserError, match="has no text"):
    make(tmp_path / "x", f"{path}?pile_set_name=Z")


def test_text_field(tmp_path):
  train = write(tmp_path / "a.jsonl", lines(TEXTS, field="content", text=3))
  test = write(tmp_path / "b.jsonl", lines(["test"], field="content"))
  made = make(tmp_path, train, test=[str(test)], text_field="content")
  assert list(made.texts("train")) == TEXTS


def test_hub_reads_a_local_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
  write(tmp_path / "set/train.jsonl", lines(TEXTS))
  write(tmp_path / "set/test.jsonl", lines(["test text"]))
  spec = f"hub:{tmp_path}/set"
  made = make(tmp_path, f"{spec}:train", validation=[f"{spec}:default:test"])
  assert list(made.texts("train")) == TEXTS
  assert list(made.texts("validation")) == ["test text"]
  with pytest.raises(UserError, match=r"hub:.*:nosplit cannot be read after 0 records: .*nosplit"):
    make(tmp_path / "x", f"{spec}:nosplit")


@pytest.mark.parametrize("spec", ["hub:name", "hub:a:b:c:d", "hub::train"])
def test_hub_spec_that_is_none(tmp_path, spec):
  with pytest.raises(UserError, match=r"hub:NAME:CONFIG:SPLIT"):
    make(tmp_path, spec)


def test_hub_without_its_package(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "datasets", None)
  with pytest.raises(UserError, match="pip install 'datasets"):
    make(tmp_path, "hub:allenai/c4:en:train")


@pytest.mark.parametrize("suffix", [".json.gz", ".jsonl.zst"])
def test_truncated_file_keeps_what_came_before(tmp_path, suffix, capsys):
  rng = random.Random(0)
  texts = ["".join(rng.choices("abcdefghij \n", k=3000)) for _ in range(400)]
  whole = [write_texts(tmp_path / f"in/{i}{suffix}", TEXTS) for i in range(9)]
  path = write_texts(tmp_path / f"in/broken{suffix}", texts)
  path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
  found = list(make(tmp_path, tmp_path / "in").texts("train"))
  kept = len(found) - len(TEXTS) * len(whole)
  assert 200 < kept < 300
  assert found[-kept:] == texts[:kept]
  counts = summary(tmp_path)
  assert (counts["broken_files"], counts["files"], counts["bad_records"]) == (1, 10, 0)
  (place,) = counts["broken_places"]
  assert place.startswith(f"{path}:{kept + 1} (")
  assert place in capsys.readouterr().out

  with pytest.raises(UserError, match=r"1 of 10 files are broken, the first at .*max_bad_share"):
    make(tmp_path / "x", tmp_path / "in", max_bad_share=0.09)


@pytest.mark.parametrize(
  ("name", "content", "reason", "workers"),
  [
    ("a.parquet", b"PAR1 and then nothing", "Parquet", 0),
    ("a.json.gz", b"not gzip at all", "incorrect header", 2),
    ("a.jsonl.zst", b"not zstd at all", "frame", 0),
  ],
)
def test_unreadable_file(tmp_path, name, content, reason, workers):
  good = write_texts(tmp_path / "b.jsonl", TEXTS)
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(UserError, match=f"1 of 2 files are broken, the first at .*{name} .*{reason}"):
    make(tmp_path, path, good, workers=workers)
  assert not (tmp_path / "made").exists()
  made = make(tmp_path, path, good, workers=workers, max_bad_share=0.5)
  assert list(made.texts("train")) == TEXTS


def test_parquet_without_the_column(tmp_path):
  path = write_texts(tmp_path / "a.parquet", TEXTS)
  with pytest.raises(UserError, match=r"no column 'content' among id, text"):
    make(tmp_path, path, text_field="content")


BAD = {
  "not JSON": b'{"text": "cut off',
  "not UTF-8": b'{"text": "caf\xe9"}',
  "not UTF-8 (surrogate)": b'{"text": "\\ud800"}',
  "no text in its field 'text'": b'{"title": "no text"}',
  "no text in its field 'text' (null)": b'{"text": null}',
  "not a JSON object": b'["text"]',
  "not JSON (deep)": b"[" * 100_000,
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_record(tmp_path, reason, capsys):
  """Below the limit it is left out and reported, above it is an error that says where."""
  good = lines(TEXTS[:9]).splitlines()
  content = b"\n".join([*good[:4], b"", BAD[reason], *good[4:]])
  path = write(tmp_path / "a.jsonl", content)
  assert list(make(tmp_path, path, max_bad_share=0.1).texts("train")) == TEXTS[:9]
  counts = summary(tmp_path)
  assert (counts["bad_records"], counts["records"]) == (1, 10)
  assert counts["bad_places"] == [f"{path}:6 ({reason.partition(' (')[0]})"]
  assert f"{path}:6" in capsys.readouterr().out

  with pytest.raises(UserError, match=r"1 of 10 records are bad, the first at .*a\.jsonl:6 \("):
    make(tmp_path / "x", path, max_bad_share=0.09)


def test_bad_parquet_rows(tmp_path):
  binary = pa.array([b"good", b"caf\xe9", None], pa.binary())
  text = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
  pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
  made = make(tmp_path, tmp_path / "a.parquet", max_bad_share=0.7)
  assert list(made.texts("train")) == ["good"]
  reasons = [place.rpartition("parquet:")[2] for place in summary(tmp_path)["bad_places"]]
  assert reasons == ["2 (not UTF-8)", "3 (no text in its field 'text')"]


def test_text_file_that_is_not_utf8(tmp_path):
  good = write(tmp_path / "a.txt", TEXTS[0].encode())
  bad = write(tmp_path / "b.txt", "café".encode("latin-1"))
  assert list(make(tmp_path, good, bad, max_bad_share=0.5).texts("train")) == TEXTS[:1]
  assert summary(tmp_path)["bad_places"] == [f"{bad} (not UTF-8)"]


def test_only_the_first_places_are_kept(tmp_path):
  paths = [write(tmp_path / f"{i}.jsonl", b"x\ny\nz\n" + lines(TEXTS)) for i in range(4)]
  make(tmp_path, *paths, max_bad_share=0.5)
  counts = summary(tmp_path)
  assert counts["bad_records"] == 12
  assert [place.split(" (")[0] for place in counts["bad_places"]] == [
    f"{path}:{line}" for path in paths[:2] for line in (1, 2, 3)
  ][:5]


def test_blank_documents_are_counted(tmp_path):
  path = write(tmp_path / "a.jsonl", lines(["", " \n\t", TEXTS[0]]))
  assert list(make(tmp_path, path, max_bad_share=0.0).texts("train")) == TEXTS[:1]
  assert summary(tmp_path)["blank_documents"] == 2


@pytest.mark.parametrize("name", ["e.jsonl", "e.json.gz", "e.jsonl.zst", "e.parquet", "e.txt"])
def test_empty_file(tmp_path, name):
  path = tmp_path / name
  if name == "e.parquet":
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
  else:
    path.write_bytes(b"")
  good = write_texts(tmp_path / "a.jsonl", TEXTS)
  assert list(make(tmp_path, path, good, max_bad_share=0.0).texts("train")) == TEXTS
  with pytest.raises(UserError, match=r"domain 'law' has no text: .*data\.domains\.law\.train"):
    make(tmp_path / "x", path)


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
  for i in range(5):
    texts = ["".join(rng.choices("ab \n", k=rng.randrange(900))) for _ in range(60)]
    write_texts(tmp_path / f"in/{i}{FORMATS[i]}", texts)
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


CUTS = [
  ("aa\n\nbb\n\ncc", 6, ["aa\n\n", "bb\n\ncc"]),
  ("aa\n\nb\ncc", 7, ["aa\n\n", "b\ncc"]),
  ("aa\nbb\ncc", 7, ["aa\nbb\n", "cc"]),
  ("aaaaaaaaaa", 4, ["aaaa", "aaaa", "aa"]),
  ("aa\n\nbbbbbbbbb\nc", 8, ["aa\n\n", "bbbbbbbb", "b\nc"]),
  ("short", 5, ["short"]),
]


@pytest.mark.parametrize(("text", "limit", "pieces"), CUTS)
def test_cut(text, limit, pieces):
  assert list(readers.cut([text], limit)) == pieces


@pytest.mark.parametrize("limit", [1, 7, 100])
@pytest.mark.parametrize("block", [1, 13, 10_000])
def test_cut_loses_nothing_whatever_the_blocks(limit, block):
  rng = random.Random(limit)
  text = "".join(rng.choices("ab漢 \n\r", k=3000))
  pieces = list(readers.cut((text[i : i + block] for i in range(0, len(text), block)), limit))
  assert "".join(pieces) == text
  assert max(map(len, pieces)) <= limit
  assert pieces == list(readers.cut([text], limit))


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

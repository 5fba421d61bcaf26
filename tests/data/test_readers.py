"""Formats, folders, globs and hubs; broken input; long documents that are cut."""

import json
import random
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specialization.data import readers
from specialization.errors import UserError
from text_files import TEXTS, lines, make, summary, write, write_texts

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

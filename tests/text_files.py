"""Files of text as sources of documents, and the documents that are made of them."""

import dataclasses
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from specialization.config import DataConfig, DomainConfig
from specialization.data.documents import prepare

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
  max_generic_evaluation_tokens=0,
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

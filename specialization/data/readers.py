"""Readers: the records of one file or data set as a stream, damage noticed, in bounded memory.

A reader yields (line, text): the text of a record, None for a record that was not asked for, or
why it is `Bad`. It raises one of `DAMAGE` where a file breaks off; what it yielded before stands.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet
import zstandard

from specialization.data import embedded
from specialization.errors import UserError

JSON_SUFFIXES = tuple(
  kind + packed for kind in (".json", ".jsonl") for packed in ("", ".gz", ".zst")
)
SUFFIXES = (*JSON_SUFFIXES, ".parquet", ".txt")
DAMAGE = (OSError, EOFError, zlib.error, zstandard.ZstdError, pyarrow.ArrowException)
_BLOCK = 1 << 20  # bytes or characters that are read at a time
_SECTION = 16  # a text file comes in sections of at most so many documents


class Bad(str):
  """Why a record has no text."""


@dataclasses.dataclass(frozen=True)
class Wanted:
  """What to take from records."""

  field: str  # that holds the text
  pile_set: str  # the record's meta.pile_set_name; "": any
  max_chars: int  # of a document


Records = Iterator[tuple[int, str | Bad | None]]
Reader = Callable[[str, Wanted], Records]


def of(path: Path) -> Reader:
  """Returns the reader of a file with one of `SUFFIXES`."""
  return {".parquet": parquet, ".txt": text_file}.get(path.suffix, json_lines)


def json_lines(path: str, wanted: Wanted) -> Records:
  """Reads one JSON object a line, compressed as the file's name says."""
  with Path(path).open("rb") as file:
    for number, line in enumerate(_lines(_blocks(file, path)), 1):
      if line.strip():
        yield number, _parse(line, wanted)


def parquet(path: str, wanted: Wanted) -> Records:
  """Reads the rows of a Parquet file.

  Raises:
    pyarrow.ArrowException: also if there is no column of the wanted name.
  """
  with pyarrow.parquet.ParquetFile(path) as file:
    names = file.schema_arrow.names
    if wanted.field not in names:
      raise pyarrow.ArrowInvalid(f"no column {wanted.field!r} among {', '.join(names)}")
    columns = [name for name in (wanted.field, "meta") if name in names]
    number = 0
    for batch in file.iter_batches(batch_size=256, columns=columns):
      for row in range(batch.num_rows):
        number += 1
        yield number, _row(batch, row, wanted)


def text_file(path: str, wanted: Wanted) -> Records:
  """Reads a text file in sections that end where a document may end."""
  with Path(path).open(encoding="utf-8", newline="") as file:
    blocks = iter(lambda: file.read(_BLOCK), "")
    try:
      for section in cut(blocks, _SECTION * wanted.max_chars):
        yield 0, section
    except UnicodeDecodeError:
      yield 0, Bad("not UTF-8")


def embedded_file(path: str, wanted: Wanted) -> Records:
  """Reads a file of the embedded corpus."""
  del wanted  # a file is one document
  yield 0, embedded.read(Path(path))


def hub(source: str, wanted: Wanted) -> Records:
  """Streams a split of a Hugging Face data set.

  Raises:
    UserError: it cannot be opened or read to its end: then there is no telling what is missing.
  """
  name, config, split = hub_names(source)
  number = 0
  try:
    import datasets

    for row in datasets.load_dataset(name, config, split=split, streaming=True):
      number += 1
      yield number, _text(row, wanted)
  except Exception as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(
      f"{source} cannot be read after {number} records: {reason}; check its name, configuration"
      " and split, and the network."
    ) from error


def hub_names(source: str) -> tuple[str, str | None, str]:
  """Returns name, configuration and split of hub:NAME[:CONFIG]:SPLIT."""
  names = source.split(":")[1:]
  if len(names) not in (2, 3) or not all(names):
    raise UserError(f"{source!r} must read hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT.")
  return names[0], names[1] if len(names) == 3 else None, names[-1]


def cut(blocks: Iterable[str], max_chars: int) -> Iterator[str]:
  """Cuts running text, given in blocks of any size, at its paragraphs' ends.

  Yields pieces of at most max_chars characters, whose concatenation is the text. A piece ends
  after its last blank line; if it has none, after its last line; else anywhere.
  """
  rest = ""
  for block in blocks:
    rest += block
    start = 0
    while len(rest) - start > max_chars:
      end = start + max_chars
      for mark in ("\n\n", "\n"):
        found = rest.rfind(mark, start, end)
        if found >= 0:
          end = found + len(mark)
          break
      yield rest[start:end]
      start = end
    rest = rest[start:]
  if rest:
    yield rest


def _blocks(file: BinaryIO, path: str) -> Iterator[bytes]:
  """Yields the file's bytes, decompressed. Raises EOFError if they end within a stream."""
  compressed = iter(lambda: file.read(_BLOCK // 8), b"")
  if not path.endswith((".gz", ".zst")):
    yield from compressed
    return
  stream: Any = None
  for block in compressed:
    while block:
      if stream is None or stream.eof:  # both formats allow streams one after the other
        stream = _decompressor(path)
      yield stream.decompress(block)
      block = stream.unused_data
  if stream is not None and not stream.eof:
    raise EOFError("it ends too early")


def _decompressor(path: str) -> Any:
  if path.endswith(".gz"):
    return zlib.decompressobj(16 + zlib.MAX_WBITS)
  return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
  begun: list[bytes] = []
  for block in blocks:
    first, *others = block.split(b"\n")
    begun.append(first)
    for line in others:
      yield b"".join(begun)
      begun = [line]
  yield b"".join(begun)


def _parse(line: bytes, wanted: Wanted) -> str | Bad | None:
  try:
    record = json.loads(line.decode())
  except UnicodeDecodeError:
    return Bad("not UTF-8")
  except (ValueError, RecursionError):
    return Bad("not JSON")
  return _text(record, wanted) if isinstance(record, dict) else Bad("not a JSON object")


def _row(batch: pyarrow.RecordBatch, row: int, wanted: Wanted) -> str | Bad | None:
  try:
    record = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
  except UnicodeDecodeError:
    return Bad("not UTF-8")
  return _text(record, wanted)


def _text(record: dict[str, Any], wanted: Wanted) -> str | Bad | None:
  if wanted.pile_set:
    meta = record.get("meta")
    if not isinstance(meta, dict) or meta.get("pile_set_name") != wanted.pile_set:
      return None
  text = record.get(wanted.field)
  if not isinstance(text, str):
    return Bad(f"no text in its field {wanted.field!r}")
  try:
    text.encode()
  except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
    return Bad("not UTF-8")
  return text

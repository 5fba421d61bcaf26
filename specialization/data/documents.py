"""Documents: text of any supported sources, split, cut, counted and kept as Parquet parts.

Workers import this module, so it must be quick to import.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pyarrow
import pyarrow.parquet

from specialization import artifact, metrics
from specialization.config import DataConfig, DomainConfig
from specialization.data import readers
from specialization.data.sources import Group, groups, identity, under
from specialization.errors import UserError
from specialization.strict import one_of

SPLITS = ("train", "validation", "test")
_ROW_GROUP = 4 << 20  # bytes of text that a part holds in memory
_PLACES = 5  # of broken input that are remembered


class Documents:
  """The documents of one name, each at most `max_document_chars` long."""

  def __init__(self, folder: Path):
    """Raises UserError unless `prepare` has finished there."""
    if not (folder / "summary.json").exists():
      raise UserError(f"There are no documents at {folder}: run `specialization prepare` first.")
    self._folder = folder
    self._summary = json.loads((folder / "summary.json").read_text())

  @property
  def hash(self) -> str:
    return artifact.fingerprint(artifact.made_from(self._folder))

  def count(self, split: str) -> int:
    """Returns the number of documents; 0 if the split had no sources."""
    one_of("split", split, SPLITS)
    return self._summary[split]["documents"]

  def bytes(self, split: str) -> int:
    """Returns the size of the text in bytes of UTF-8."""
    one_of("split", split, SPLITS)
    return self._summary[split]["bytes"]

  def texts(self, split: str) -> Iterator[str]:
    """Yields the documents, always in the same order."""
    one_of("split", split, SPLITS)
    for path in sorted((self._folder / split).glob("part-*.parquet")):
      with pyarrow.parquet.ParquetFile(path) as part:
        for batch in part.iter_batches(batch_size=256):
          yield from batch.column("text").to_pylist()

  def batches(self, split: str, size: int = 1000) -> Iterator[list[str]]:
    """Yields lists of `size` documents; the last may be shorter."""
    texts = self.texts(split)
    while batch := list(itertools.islice(texts, size)):
      yield batch


def prepare(
  name: str, sources: DomainConfig, data: DataConfig, folder: Path, max_bytes: int
) -> Documents:
  """Makes the documents of one name, or finds them complete.

  Args:
    name: "generic", or a domain's name.
    sources: specs per split; with train alone, each document goes to train (85%), validation (5%)
      or test (10%) by a hash of its text.
    data: how to read; the documents and their order do not depend on `workers`.
    folder: of the artifact.
    max_bytes: of UTF-8 text at most, per split that has sources, shared evenly between its files;
      0: all.

  Raises:
    UserError: a source that is not there or not readable, too much broken input, a split whose
      sources have no text, or a folder that was made from something else.
  """
  where = "data.generic" if name == "generic" else f"data.domains.{name}"
  title = name if name == "generic" else f"domain {name!r}"
  specs = {
    split: tuple(under(data.folder, spec) for spec in getattr(sources, split)) for split in SPLITS
  }
  if data.max_document_chars < 1:
    raise UserError(f"data.max_document_chars={data.max_document_chars} must be at least 1.")
  if not sources.train:
    raise UserError(f"{title} has no text: give {where}.train at least one source.")
  wanted = {
    "sources": _identities(specs, where),
    "text_field": data.text_field,
    "max_document_chars": data.max_document_chars,
    "max_bytes": max_bytes,
  }
  if not artifact.exists(folder, wanted):
    by_hash = not sources.validation and not sources.test
    with artifact.create(folder, wanted) as temporary:
      counts = _make(specs, by_hash, data, temporary, max_bytes, where, title)
      for split in SPLITS:
        _report(counts[split], f"{where}.{split}", data.max_bad_share)
      for split in SPLITS:
        if not counts[split].documents and (by_hash or specs[split]):
          hashed = sum(each.documents for each in counts.values()) if by_hash else 0
          raise UserError(_no_text(title, where, split, hashed))
      summary = {split: dataclasses.asdict(counts[split]) for split in SPLITS}
      (temporary / "summary.json").write_text(json.dumps(summary, indent=1))
  return Documents(folder)


def _identities(specs: Mapping[str, tuple[str, ...]], where: str) -> dict[str, dict[str, dict]]:
  found = {
    split: {str(i): identity(spec, f"{where}.{split}") for i, spec in enumerate(specs[split])}
    for split in SPLITS
  }
  for one, other in itertools.combinations(SPLITS, 2):
    if any(each in found[other].values() for each in found[one].values()):
      raise UserError(f"{where}.{one} and {where}.{other} share a source: give each its own text.")
  return found


@dataclasses.dataclass(frozen=True)
class _Job:
  """What one worker reads, and the part that it writes."""

  group: Group
  wanted: readers.Wanted
  split: str  # of the sources
  by_hash: bool  # whether documents go to any split, by a hash of their text
  index: int  # of the part
  max_bytes: float  # of text


@dataclasses.dataclass
class _Counts:
  """What one split's sources held; documents and bytes are what the split got."""

  documents: int = 0
  bytes: int = 0
  blank_documents: int = 0
  records: int = 0
  bad_records: int = 0
  files: int = 0
  broken_files: int = 0
  bad_places: list[str] = dataclasses.field(default_factory=list)
  broken_places: list[str] = dataclasses.field(default_factory=list)

  def add(self, other: "_Counts") -> None:
    for field in dataclasses.fields(self):
      setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
    del self.bad_places[_PLACES:], self.broken_places[_PLACES:]


def _make(
  specs: Mapping[str, tuple[str, ...]],
  by_hash: bool,
  data: DataConfig,
  folder: Path,
  max_bytes: int,
  where: str,
  title: str,
) -> dict[str, _Counts]:
  """Writes all parts."""
  jobs = []
  for split in SPLITS:
    (folder / split).mkdir()
    found = [group for spec in specs[split] for group in groups(spec, f"{where}.{split}")]
    files = sum(len(group.paths) for group in found)
    for index, group in enumerate(found):
      wanted = readers.Wanted(data.text_field, group.pile_set, data.max_document_chars)
      share = float(max_bytes * len(group.paths) // files) if max_bytes else math.inf
      jobs.append(_Job(group, wanted, split, by_hash, index, share))
  counts = {split: _Counts() for split in SPLITS}
  total = sum(job.group.bytes for job in jobs)
  with metrics.progress(total, f"documents of {title}", "B") as bar:
    for found_counts in _run_all(jobs, folder, data.workers, bar.update):
      for split in SPLITS:
        counts[split].add(found_counts[split])
  return counts


def _run_all(
  jobs: Sequence[_Job], folder: Path, workers: int, done: Callable[[int], object]
) -> list[dict[str, _Counts]]:
  """Runs jobs in `workers` processes and returns their counts in the order of the jobs."""
  if workers < 1 or len(jobs) == 1:
    counts = []
    for job in jobs:
      counts.append(_run(job, folder))
      done(job.group.bytes)
    return counts
  # Forking a process that may hold JAX's threads can hang, so workers start afresh.
  context = multiprocessing.get_context("spawn")
  pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context)
  try:
    futures = {pool.submit(_run, job, folder): job for job in jobs}
    for future in concurrent.futures.as_completed(futures):
      future.result()
      done(futures[future].group.bytes)
    return [future.result() for future in futures]
  except BrokenProcessPool:
    raise UserError(
      "A process that reads documents ended abruptly (is memory short?): lower data.workers, or"
      " set it to 0 to read in this process."
    ) from None
  finally:
    pool.shutdown(cancel_futures=True)


def _run(job: _Job, folder: Path) -> dict[str, _Counts]:
  counts = {split: _Counts() for split in SPLITS}
  with contextlib.ExitStack() as stack:
    parts = {
      split: stack.enter_context(_Part(folder / split / f"part-{job.index:05d}.parquet"))
      for split in SPLITS
    }
    for split, text, size in _documents(job, counts[job.split]):
      parts[split].add(text, size)
      counts[split].documents += 1
      counts[split].bytes += size
  return counts


def _documents(job: _Job, counts: _Counts) -> Iterator[tuple[str, str, int]]:
  """Yields (split, text, bytes) of each document and counts what is none."""
  taken = 0
  for path in job.group.paths:
    counts.files += 1
    line = 0
    try:
      for line, text in job.group.reader(path, job.wanted):
        counts.records += 1
        if isinstance(text, readers.Bad):
          counts.bad_records += 1
          _remember(counts.bad_places, path, line, text)
        elif text is not None and not text.strip():
          counts.blank_documents += 1
        elif text is not None:
          split = _split_of(text) if job.by_hash else job.split
          for document in readers.cut([text], job.wanted.max_chars):
            if not document.strip():
              continue
            size = len(document.encode())
            if taken + size > job.max_bytes:
              return
            taken += size
            yield split, document, size
    except readers.DAMAGE as error:
      counts.broken_files += 1
      reason = (str(error) or type(error).__name__).splitlines()[0]
      _remember(counts.broken_places, path, line + 1 if line else 0, reason)


def _remember(places: list[str], path: str, line: int, reason: str) -> None:
  if len(places) < _PLACES:
    places.append(f"{path}:{line} ({reason})" if line else f"{path} ({reason})")


def _split_of(text: str) -> str:
  """Returns the split of a whole document, so that its pieces and its copies stay together."""
  percent = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
  return "train" if percent < 85 else "validation" if percent < 90 else "test"


class _Part:
  """A Parquet file that is begun with its first row."""

  def __init__(self, path: Path):
    self._path = path
    self._rows: list[str] = []
    self._size = 0
    self._writer: pyarrow.parquet.ParquetWriter | None = None

  def __enter__(self) -> "_Part":
    return self

  def add(self, text: str, size: int) -> None:
    self._rows.append(text)
    self._size += size
    if self._size >= _ROW_GROUP:
      self._flush()

  def _flush(self) -> None:
    table = pyarrow.table({"text": pyarrow.array(self._rows, pyarrow.string())})
    if self._writer is None:
      self._writer = pyarrow.parquet.ParquetWriter(self._path, table.schema, compression="zstd")
    self._writer.write_table(table)
    self._rows, self._size = [], 0

  def __exit__(self, *exception: object) -> None:
    if self._rows:
      self._flush()
    if self._writer is not None:
      self._writer.close()


def _report(counts: _Counts, where: str, max_bad_share: float) -> None:
  """Prints one line about broken input. Raises UserError if there is too much of it."""
  for bad, total, what, places in (
    (counts.broken_files, counts.files, "files are broken", counts.broken_places),
    (counts.bad_records, counts.records, "records are bad", counts.bad_places),
  ):
    if total and bad / total > max_bad_share:
      raise UserError(
        f"{where}: {bad} of {total} {what}, the first at {places[0]}; data.max_bad_share="
        f"{max_bad_share} allows fewer: mend or leave out the input, or raise that share."
      )
  if counts.bad_records or counts.broken_files:
    print(
      f"{where}: left out {counts.bad_records} bad records of {counts.records} and the rest of"
      f" {counts.broken_files} broken files of {counts.files}:"
      f" {'; '.join(counts.broken_places + counts.bad_places)}"
    )


def _no_text(title: str, where: str, split: str, hashed: int) -> str:
  if hashed:
    return (
      f"{title} has no {split} text: its {hashed} documents are too few to go to splits by a hash;"
      f" give {where}.validation and {where}.test their own sources, or more text."
    )
  what = "text" if split == "train" else f"{split} text"
  return (
    f"{title} has no {what}: no source of {where}.{split} holds a document that is not blank and"
    " that fits its share of the bytes that may be read."
  )

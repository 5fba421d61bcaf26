"""A teacher's largest log probabilities on disk, for rows that a student sees more than once.

Dimensions: n rows, T targets of a row, q tokens that the teacher names for each target.
"""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8, Int64, Shaped

from specialization import artifact
from specialization.data.sampler import Sampler
from specialization.metrics import progress

_KINDS = {"teacher_log_probs": np.float32, "teacher_ids": np.int32}  # in a batch


def rows_of(sampler: Sampler, steps: int) -> tuple[Int8[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
  """Returns source and row of all that a sampler yields in its first steps, each once."""
  keys = np.concatenate([_keys(*sampler.indices(step)[1:]).ravel() for step in range(steps)])
  found = np.unique(keys)
  return (found >> 48).astype(np.int8), found & ((1 << 48) - 1)


def _keys(
  sources: Int8[np.ndarray, "..."], rows: Int64[np.ndarray, "..."]
) -> Int64[np.ndarray, "..."]:
  return (sources.astype(np.int64) << 48) | rows


class TeacherCache:
  """f16 log probabilities and u16 or u32 tokens, memory-mapped, found by source and row.

  Attributes:
    sizes: of each part of a batch that it gives, the numbers per target (q).
    bytes_per_token: on disk.
    n_rows: about which the teacher was asked.
    seconds: that it took.
  """

  def __init__(self, folder: Path):
    self._keys = np.load(folder / "keys.npy")
    self._parts = {
      name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))
      for name in _KINDS
      if (folder / f"{name}.npy").exists()
    }
    self.sizes = {name: part.shape[-1] for name, part in self._parts.items()}
    self.n_rows = len(self._keys)
    self.seconds: float = json.loads((folder / "totals.json").read_text())["seconds"]
    self.bytes_per_token = sum(
      part.shape[-1] * part.dtype.itemsize for part in self._parts.values()
    )

  def at(
    self, sources: Int8[np.ndarray, "g b"], rows: Int64[np.ndarray, "g b"]
  ) -> dict[str, Shaped[np.ndarray, "g b T q"]]:
    """Returns what the teacher says of some rows.

    Raises:
      KeyError: it was not asked about one of them.
    """
    wanted = _keys(sources, rows)
    found = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
    if (self._keys[found] != wanted).any():
      raise KeyError("The teacher's cache lacks a row that the student is to learn from.")
    return {name: part[found].astype(_KINDS[name]) for name, part in self._parts.items()}


def write(
  folder: Path,
  made_from: Mapping[str, Any],
  rows: tuple[Int8[np.ndarray, "n"], Int64[np.ndarray, "n"]],
  answers: Iterable[Mapping[str, np.ndarray]],
  length: int,
  sizes: Mapping[str, int],
  vocab_size: int,
) -> None:
  """Writes the cache, unless the artifact is there.

  Args:
    folder: the artifact.
    made_from: the teacher, the temperature and the rows.
    rows: source and row, as `rows_of` returns them.
    answers: teacher_log_probs, and teacher_ids unless they are of all tokens, [b, T, q] of the next
      b rows; those past the end of `rows` are left out.
    length: T.
    sizes: q of each.
    vocab_size: whether tokens fit into 16 bits.
  """
  if artifact.exists(folder, made_from):
    return
  keys, started = _keys(*rows), time.monotonic()
  kinds = {
    "teacher_log_probs": np.float16,
    "teacher_ids": np.uint16 if vocab_size <= 1 << 16 else np.uint32,
  }
  with (
    artifact.create(folder, made_from) as temporary,
    progress(len(keys), "ask the teacher", "row") as bar,
  ):
    parts = {
      name: np.lib.format.open_memmap(
        temporary / f"{name}.npy", "w+", kinds[name], (len(keys), length, q)
      )
      for name, q in sizes.items()
    }
    done = 0
    for answer in answers:
      n = min(len(next(iter(answer.values()))), len(keys) - done)
      for name, part in parts.items():
        part[done : done + n] = answer[name][:n]
      done += n
      bar.update(n)
    for part in parts.values():
      part.flush()
    np.save(temporary / "keys.npy", keys)
    totals = {"seconds": time.monotonic() - started}
    (temporary / "totals.json").write_text(json.dumps(totals))

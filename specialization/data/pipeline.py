"""From a sampler and stores to batches on devices.

Dimensions: G groups of a batch, b rows of a group, T the sequence length; g and r are what one
process reads of G and b. A batch is a dict of

    tokens i32[G, b, T+1]   cluster i32[G]   mask bool[G, b, T] (True: the target counts)
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding, Sharding
from jaxtyping import Int8, Int32, Int64, Shaped

from specialization.data.sampler import Sampler
from specialization.data.store import Store

_THREADS = 2
_AHEAD = 8  # batches that wait in host memory


@runtime_checkable
class Notes(Protocol):
  """What is known of rows beside their tokens, such as a teacher's opinion."""

  @property
  def sizes(self) -> Mapping[str, int]:
    """Numbers per target of each further part of a batch."""
    ...

  def at(
    self, sources: Int8[np.ndarray, "g b"], rows: Int64[np.ndarray, "g b"]
  ) -> dict[str, Shaped[np.ndarray, "g b T q"]]: ...


@dataclasses.dataclass(frozen=True)
class Listed:
  """Given rows of several sources, in order; past their end rows are -1, which `Pipeline` masks."""

  sources: Int8[np.ndarray, "n"]
  rows: Int64[np.ndarray, "n"]
  rows_per_batch: int

  @property
  def shape(self) -> tuple[int, int]:
    return 1, self.rows_per_batch

  @property
  def steps(self) -> int:
    return -(-len(self.rows) // self.rows_per_batch)

  def indices(
    self, step: int
  ) -> tuple[Int32[np.ndarray, "1"], Int8[np.ndarray, "1 b"], Int64[np.ndarray, "1 b"]]:
    """See Sampler."""
    at = step * self.rows_per_batch + np.arange(self.rows_per_batch)[None]
    there, at = at < len(self.rows), np.minimum(at, len(self.rows) - 1)
    return np.zeros(1, np.int32), self.sources[at], np.where(there, self.rows[at], -1)


class Pipeline:
  """The batch of a step, or any rectangle of it, read from stores of one sequence length."""

  def __init__(self, sampler: Sampler, stores: Sequence[Store], notes: Notes | None = None):
    """
    Args:
      sampler: which rows.
      stores: the sources that it names.
      notes: what a batch holds beside tokens, cluster and mask.

    Raises:
      ValueError: the stores differ in sequence length.
    """
    self._sampler, self._stores, self._notes = sampler, stores, notes
    self._length = stores[0].sequence_length
    if any(store.sequence_length != self._length for store in stores):
      raise ValueError("The stores of one pipeline must have one sequence length.")

  @property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Shapes of a batch's arrays."""
    shape = self._sampler.shape
    return {
      "tokens": (*shape, self._length + 1),
      "cluster": shape[:1],
      "mask": (*shape, self._length),
    } | {name: (*shape, self._length, size) for name, size in self._sizes.items()}

  @property
  def _sizes(self) -> Mapping[str, int]:
    return self._notes.sizes if self._notes else {}

  def indices(
    self, step: int
  ) -> tuple[Int32[np.ndarray, "G"], Int8[np.ndarray, "G b"], Int64[np.ndarray, "G b"]]:
    """Returns cluster, source and row of everything in the batch of a step."""
    return self._sampler.indices(step)

  def local(self, step: int, groups: slice, rows: slice) -> dict[str, Shaped[np.ndarray, "g ..."]]:
    """Returns a rectangle of the batch of a step; only its rows are read."""
    cluster, sources, row = self.indices(step)
    sources, row = sources[groups, rows], row[groups, rows]
    tokens = np.empty((*row.shape, self._length + 1), np.int32)
    mask = np.empty((*row.shape, self._length), np.bool_)
    for source, store in enumerate(self._stores):
      here = sources == source
      tokens[here] = store.rows(row[here])
      mask[here] = store.mask(row[here])
    mask[row < 0] = False
    notes = self._notes.at(sources, row) if self._notes else {}
    return {"tokens": tokens, "cluster": cluster[groups], "mask": mask, **notes}


def process_slices(sharding: Sharding, shape: Sequence[int]) -> tuple[slice, slice]:
  """Returns the groups and rows that this process' devices hold: the smallest rectangle.

  Args:
    sharding: of an array whose first axes are groups and rows.
    shape: of that array.
  """
  parts: Any = sharding.addressable_devices_indices_map(tuple(shape)).values()
  ranges = [[part[axis].indices(shape[axis])[:2] for part in parts] for axis in (0, 1)]
  groups, rows = (slice(min(a for a, _ in axis), max(b for _, b in axis)) for axis in ranges)
  return groups, rows


def split_slices(
  shape: tuple[int, int], process_index: int, process_count: int
) -> tuple[slice, slice]:
  """Returns one process' share of (G, b): of the rows if they divide, else of the groups.

  Raises:
    ValueError: neither divides by the number of processes.
  """
  groups, rows = shape
  if rows % process_count == 0:
    part = rows // process_count
    return slice(0, groups), slice(process_index * part, (process_index + 1) * part)
  if groups % process_count == 0:
    part = groups // process_count
    return slice(process_index * part, (process_index + 1) * part), slice(0, rows)
  raise ValueError(
    f"Neither {groups} groups nor {rows} rows divide over {process_count} processes."
  )


def _place(
  part: np.ndarray, begin: tuple[int, ...], shape: tuple[int, ...], sharding: NamedSharding
) -> jax.Array:
  """Returns the global array of which this process holds `part`, whose first entry is `begin`."""

  def read(index: Any) -> np.ndarray:
    bounds = (s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
    return part[tuple(slice(a - at, b - at) for (a, b), at in zip(bounds, begin, strict=True))]

  # A loop that forbids implicit transfers means others than this one.
  with jax.transfer_guard_host_to_device("allow"):
    return jax.make_array_from_callback(shape, sharding, read)


def batches(
  pipeline: Pipeline, shardings: Mapping[str, NamedSharding], start: int, stop: int
) -> Iterator[dict[str, jax.Array]]:
  """Yields the batches of steps start ... stop - 1 as global arrays.

  Threads read ahead, and the next batch is on its way to the devices while one is used. What a step
  gets depends on neither start nor the number of processes.

  Args:
    pipeline: what to read.
    shardings: of tokens, cluster and mask.
    start: first step.
    stop: end of the steps.
  """
  shapes = pipeline.shapes
  groups, rows = process_slices(shardings["tokens"], shapes["tokens"])
  begins = {
    name: (groups.start, rows.start, *[0] * (len(shape) - 2)) if len(shape) > 1 else (0,)
    for name, shape in shapes.items()
  }

  def load(step: int) -> dict[str, np.ndarray]:
    # Every process gets all clusters: their sharding need not be that of the rows.
    return pipeline.local(step, groups, rows) | {"cluster": pipeline.indices(step)[0]}

  def place(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {
      name: _place(part, begins[name], shapes[name], shardings[name])
      for name, part in batch.items()
    }

  return _one_ahead(place, _read(load, start, stop))


def _read(
  load: Callable[[int], dict[str, np.ndarray]], start: int, stop: int
) -> Iterator[dict[str, np.ndarray]]:
  steps = grain.MapDataset.range(start, stop).map(load)
  options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
  return iter(steps.to_iter_dataset(options))


def _one_ahead(
  place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
  parts: Iterator[dict[str, np.ndarray]],
) -> Iterator[dict[str, jax.Array]]:
  ahead = None
  for part in parts:
    placed = place(part)
    if ahead is not None:
      yield ahead
    ahead = placed
  if ahead is not None:
    yield ahead


def evaluation_batches(
  store: Store,
  rows_per_batch: int,
  shardings: Mapping[str, NamedSharding],
  rows: Int64[np.ndarray, "n"] | None = None,
) -> Iterator[dict[str, jax.Array]]:
  """Yields rows in order as batches of one group [1, rows_per_batch, ...] of cluster 0.

  Args:
    store: of either form.
    rows_per_batch: b; the last batch is filled up with rows whose mask is False.
    shardings: as for `batches`.
    rows: of the store; None: all.
  """
  rows = np.arange(store.n_rows) if rows is None else rows
  sampler = Listed(np.zeros(len(rows), np.int8), rows, rows_per_batch)
  return batches(Pipeline(sampler, [store]), shardings, 0, sampler.steps)

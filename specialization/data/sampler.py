"""Which rows make the batch of a step: pure functions of (seed, step), with no state to save.

Dimensions: K clusters, G groups of a batch, b rows of a group.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int8, Int32, Int64, UInt64

from specialization.errors import UserError

# Streams of random numbers that must not meet.
_OFFSETS, _ORDER, _EPOCHS, _REPLAY = range(4)

_FEISTEL_ROUNDS = 4
_BLOCK_SLOTS = 1024  # of a block, about, where no short one holds every cluster's exact share
_EXACT_SLOTS = 1 << 14  # of a block that does, at most
_CHUNK_BLOCKS = 4096  # whose offsets are sorted at a time


@np.errstate(over="ignore")
def keys(*parts: int | np.ndarray) -> UInt64[np.ndarray, "..."]:
  """Hashes integers to 64 bits (splitmix64, one step for each part); the parts broadcast."""
  state = np.asarray(np.uint64(0))
  for part in parts:
    state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = state ^ (state >> np.uint64(31))
  return np.asarray(state)


def _uniform(*parts: int | np.ndarray) -> Float64[np.ndarray, "..."]:
  """Hashes integers to [0, 1)."""
  return np.asarray((keys(*parts) >> np.uint64(11)) * 2.0**-53)


def permute(
  index: Int64[np.ndarray, "..."],
  size: int | Int64[np.ndarray, "..."],
  key: int | UInt64[np.ndarray, "..."],
) -> Int64[np.ndarray, "..."]:
  """Applies the pseudo-random permutation of range(size) that `key` names; nothing is stored.

  A Feistel network over a grid of about sqrt(size) x sqrt(size) cells, applied again to the few
  values that fall outside of range(size) (cycle walking).

  Args:
    index: positions in range(size).
    size: length of the permutation; broadcasts with index and key.
    key: names the permutation.
  """
  shaped = np.broadcast_arrays(index, size, np.asarray(key).astype(np.uint64))
  index, size, key = (a.ravel() for a in shaped)
  high = np.ceil(np.sqrt(size)).astype(np.int64)
  low = -(-size // high)
  value, walking = index.copy(), np.arange(index.size)
  while walking.size:
    value[walking] = _feistel(value[walking], high[walking], low[walking], key[walking])
    walking = walking[value[walking] >= size[walking]]
  return value.reshape(shaped[0].shape)


def _feistel(value: np.ndarray, high: np.ndarray, low: np.ndarray, key: np.ndarray) -> np.ndarray:
  left, right = np.divmod(value, low)
  for turn in range(_FEISTEL_ROUNDS):
    left = (left + (keys(key, 2 * turn, right) % high.astype(np.uint64)).astype(np.int64)) % high
    right = (right + (keys(key, 2 * turn + 1, left) % low.astype(np.uint64)).astype(np.int64)) % low
  return left * low + right


def _epochs(
  position: Int64[np.ndarray, "..."],
  size: int | Int64[np.ndarray, "..."],
  *names: int | np.ndarray,
) -> Int64[np.ndarray, "..."]:
  """Returns the entry at each position of an endless sequence of shuffled epochs of range(size)."""
  epoch, within = np.divmod(position, size)
  return permute(within, size, keys(*names, epoch))


@runtime_checkable
class Sampler(Protocol):
  """A pure function from steps to rows."""

  @property
  def shape(self) -> tuple[int, int]:
    """(G, b)."""
    ...

  def indices(
    self, step: int
  ) -> tuple[Int32[np.ndarray, "G"], Int8[np.ndarray, "G b"], Int64[np.ndarray, "G b"]]:
    """Returns cluster of each group, source (which store) and row in it."""
    ...


@dataclasses.dataclass(frozen=True)
class _Segment:
  """Steps with one distribution, cut into blocks of `steps` steps (`slots` groups).

  A block whose offset is u gives cluster c the slots between floor(edge[c-1] + u) and
  floor(edge[c] + u), where edge = slots x cumulative distribution (systematic sampling). An edge
  is kept as its floor and the least u that lifts it by one.
  """

  number: int
  start: int
  steps: int
  slots: int
  floor: np.ndarray
  lift: np.ndarray


def _segment(number: int, start: int, distribution: np.ndarray, groups: int) -> _Segment:
  # A uniform distribution fits exactly into the least common multiple: each step is balanced
  # if that is one step.
  slots = math.lcm(groups, np.count_nonzero(distribution))
  exact = distribution * slots
  if slots > _EXACT_SLOTS or np.abs(exact - np.rint(exact)).max() > 1e-9 * slots:
    slots = groups * -(-max(_BLOCK_SLOTS, 4 * len(distribution)) // groups)
  edge = slots * np.cumsum(distribution)
  edge[-1] = slots
  floor = np.floor(edge + 1e-9 * slots)
  part = edge - floor
  lift = np.where(part < 1e-9 * slots, 1.0, 1 - part)
  return _Segment(number, start, slots // groups, slots, floor.astype(np.int64), lift)


class ClusterSampler:
  """Batches of G groups, each of b rows of one cluster, with clusters drawn from a distribution.

  The sequence of groups is cut into blocks. In a block each cluster has its share of the groups
  up to rounding, in shuffled order; within a step groups are sorted by cluster. A cluster's
  visits walk through its rows in shuffled epochs, so that no row returns before all were seen.
  """

  def __init__(
    self,
    ranges: Int64[np.ndarray, "K 2"],
    schedule: Sequence[tuple[int, Float64[np.ndarray, "K"]]],
    groups: int,
    rows_per_group: int,
    seed: int,
  ):
    """
    Args:
      ranges: first row and end of each cluster.
      schedule: (first step, distribution over clusters), the first from step 0, in order. A
        cluster without rows is left out.
      groups: G.
      rows_per_group: b.
      seed: of everything drawn here.

    Raises:
      UserError: the schedule is not in order or a distribution has no cluster with rows.
    """
    self._first = ranges[:, 0]
    self._sizes = ranges[:, 1] - ranges[:, 0]
    self._groups, self._rows, self._seed = groups, rows_per_group, seed
    self._starts = [start for start, _ in schedule]
    if not schedule or self._starts[0] != 0 or sorted(set(self._starts)) != self._starts:
      raise UserError(
        f"A schedule of cluster distributions starts at steps {self._starts}: make the first 0 and"
        " each later than the one before."
      )
    self._block = functools.lru_cache(maxsize=16)(self._make_block)
    self._base = functools.lru_cache(maxsize=16)(self._lifted_edges)
    self._segments: list[_Segment] = []
    self._visited = [np.zeros(len(ranges), np.int64)]  # before each segment
    for number, (start, distribution) in enumerate(schedule):
      if number:
        self._visited.append(self._visits(start))
      self._segments.append(_segment(number, start, self._with_rows(distribution), groups))

  @property
  def shape(self) -> tuple[int, int]:
    """(G, b)."""
    return self._groups, self._rows

  def _with_rows(self, distribution: np.ndarray) -> np.ndarray:
    kept = np.where(self._sizes > 0, distribution, 0.0)
    if not (kept.sum() > 0 and kept.min() >= 0 and np.isfinite(kept).all()):
      raise UserError(
        f"A distribution over {len(kept)} clusters has a total of {kept.sum():g} over those with"
        " rows: give at least one cluster that has text a positive share, and none a negative one."
      )
    return kept / kept.sum()

  def _locate(self, step: int) -> tuple[_Segment, int, int]:
    """Returns the segment, the block in the segment and the step in the block."""
    segment = self._segments[bisect.bisect_right(self._starts, step, hi=len(self._segments)) - 1]
    return segment, *divmod(step - segment.start, segment.steps)

  def _lifted_edges(self, number: int, begin: int, end: int) -> np.ndarray:
    """Returns how many of the blocks [begin, end) lift each edge: i64[K]."""
    offsets = np.sort(_uniform(self._seed, _OFFSETS, number, np.arange(begin, end)))
    return end - begin - np.searchsorted(offsets, self._segments[number].lift)

  def _before(self, segment: _Segment, block: int) -> np.ndarray:
    """Returns each cluster's visits before a block of a segment: i64[K]."""
    chunk = block - block % _CHUNK_BLOCKS
    lifted = self._base(segment.number, 0, chunk)
    lifted = lifted + self._lifted_edges(segment.number, chunk, block)
    edges = block * segment.floor + lifted
    return self._visited[segment.number] + np.diff(edges, prepend=0)

  def _make_block(self, number: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns cluster and visit number of each slot of a block: both i64[steps, G]."""
    segment = self._segments[number]
    lifted = self._lifted_edges(number, block, block + 1)
    counts = np.diff(segment.floor + lifted, prepend=0)
    order = permute(
      np.arange(segment.slots), segment.slots, keys(self._seed, _ORDER, number, block)
    )
    cluster = np.repeat(np.arange(len(counts)), counts)[order].reshape(segment.steps, self._groups)
    cluster.sort(axis=1)
    flat = cluster.ravel()
    by_cluster = np.argsort(flat, kind="stable")
    visit = np.empty_like(flat)
    visit[by_cluster] = np.arange(segment.slots) - (np.cumsum(counts) - counts)[flat[by_cluster]]
    visit += self._before(segment, block)[flat]
    return cluster, visit.reshape(cluster.shape)

  def batch(self, step: int) -> tuple[Int32[np.ndarray, "G"], Int64[np.ndarray, "G b"]]:
    """Returns the cluster of each group, ascending, and the rows of each group."""
    segment, block, turn = self._locate(step)
    clusters, visits = self._block(segment.number, block)
    cluster = clusters[turn]
    position = visits[turn][:, None] * self._rows + np.arange(self._rows)
    column = cluster[:, None]
    rows = _epochs(position, self._sizes[column], self._seed, _EPOCHS, column)
    return cluster.astype(np.int32), self._first[column] + rows

  def indices(
    self, step: int
  ) -> tuple[Int32[np.ndarray, "G"], Int8[np.ndarray, "G b"], Int64[np.ndarray, "G b"]]:
    """Returns cluster, source (always 0) and rows of a step, as `Pipeline` wants them."""
    cluster, rows = self.batch(step)
    return cluster, np.zeros(rows.shape, np.int8), rows

  def _visits(self, steps: int) -> np.ndarray:
    segment, block, turn = self._locate(steps)
    visits = self._before(segment, block)
    if turn:
      done = self._block(segment.number, block)[0][:turn]
      visits = visits + np.bincount(done.ravel(), minlength=len(visits))
    return visits

  def repeats(self, steps: int) -> Float64[np.ndarray, "K"]:
    """Returns how many epochs each cluster has been through after so many steps."""
    return self._visits(steps) * self._rows / np.maximum(self._sizes, 1)


@dataclasses.dataclass(frozen=True)
class Merged:
  """The rows of a cluster sampler as one group, for a model with one expert."""

  sampler: ClusterSampler

  @property
  def shape(self) -> tuple[int, int]:
    """(1, G b)."""
    groups, rows = self.sampler.shape
    return 1, groups * rows

  def indices(
    self, step: int
  ) -> tuple[Int32[np.ndarray, "1"], Int8[np.ndarray, "1 b"], Int64[np.ndarray, "1 b"]]:
    """Returns cluster and source (always 0) and rows of a step, as `Pipeline` wants them."""
    rows = self.sampler.batch(step)[1].reshape(1, -1)
    return np.zeros(1, np.int32), np.zeros(rows.shape, np.int8), rows


class ReplaySampler:
  """Batches of one group of domain rows, of which an exact share is replaced by generic rows.

  Row n of the sequence is generic if floor((n + 1) p + u) > floor(n p + u), so that the share p is
  kept to within one row at every point (replay against forgetting: arXiv 2502.06042).
  """

  def __init__(
    self, domain_rows: int, generic_rows: int, replay: float, rows_per_batch: int, seed: int
  ):
    """
    Args:
      domain_rows: rows of source 0, walked in shuffled epochs.
      generic_rows: rows of source 1, likewise.
      replay: p, the share of generic rows, in [0, 1).
      rows_per_batch: b.
      seed: of everything drawn here.

    Raises:
      UserError: a source that is needed has no rows.
    """
    if domain_rows < 1 or (replay > 0 and generic_rows < 1):
      raise UserError(
        f"Fine-tuning with replay={replay:g} has {domain_rows} domain rows and {generic_rows}"
        " generic rows: it needs at least one of each kind that it draws from."
      )
    self._sizes = np.array([domain_rows, max(generic_rows, 1)])
    self._replay, self._rows, self._seed = replay, rows_per_batch, seed
    self._offset = float(_uniform(seed, _REPLAY))

  @property
  def shape(self) -> tuple[int, int]:
    """(1, b)."""
    return 1, self._rows

  def _generic_before(self, row: np.ndarray) -> np.ndarray:
    return np.floor(row * self._replay + self._offset).astype(np.int64)

  def batch(self, step: int) -> tuple[Int8[np.ndarray, "b"], Int64[np.ndarray, "b"]]:
    """Returns the source (0 domain, 1 generic) and the row in it of each row of a step."""
    row = step * self._rows + np.arange(self._rows)
    generic = self._generic_before(row)
    source = self._generic_before(row + 1) - generic
    position = np.where(source, generic, row - generic)
    rows = _epochs(position, self._sizes[source], self._seed, _EPOCHS, source)
    return source.astype(np.int8), rows

  def indices(
    self, step: int
  ) -> tuple[Int32[np.ndarray, "1"], Int8[np.ndarray, "1 b"], Int64[np.ndarray, "1 b"]]:
    """Returns cluster (always 0), source and rows of a step, as `Pipeline` wants them."""
    source, rows = self.batch(step)
    return np.zeros(1, np.int32), source[None], rows[None]

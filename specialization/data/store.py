"""The clustered store: token rows on disk, grouped by cluster, memory-mapped; see `rows`.

T is the sequence length, K a level's clusters.
"""

import json
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from specialization import artifact
from specialization.errors import UserError


@runtime_checkable
class Tree(Protocol):
  """What a store needs of the cluster tree (clusters.ClusterTree)."""

  @property
  def hash(self) -> str: ...

  def bounds(self, level: int) -> np.ndarray:
    """First leaf of each cluster of a level, and the number of leaves: i64[level + 1]."""
    ...


class Store:
  """Rows of T+1 tokens; what is read is paged in from disk, nothing is held.

  Attributes:
    sequence_length: T.
    n_rows: rows.
    n_documents: documents that the rows hold.
    n_tokens: training form: tokens, those between documents included; evaluation form: predicted
      tokens, which do not include them.
    n_bytes: UTF-8 bytes of those documents.
    hash: of what the store was made from.
  """

  def __init__(self, folder: Path):
    made_from = artifact.made_from(folder)
    totals = json.loads((folder / "totals.json").read_text())
    self.hash = artifact.fingerprint(made_from)
    self.sequence_length: int = made_from["sequence_length"]
    self.n_documents: int = totals["documents"]
    self.n_tokens: int = totals["tokens"]
    self.n_bytes: int = totals["bytes"]
    self._clusters = made_from.get("clusters")
    self._by_leaf = made_from.get("by_leaf", False)
    self._rows = np.asarray(np.load(folder / "rows.npy", mmap_mode="r"))
    self._lengths = np.asarray(np.load(folder / "lengths.npy", mmap_mode="r"))
    self._offsets = np.load(folder / "offsets.npy")
    self._doc_leaf = np.load(folder / "doc_leaf.npy", mmap_mode="r")
    self._doc_tokens = np.load(folder / "doc_tokens.npy", mmap_mode="r")
    self.n_rows = len(self._rows)

  def rows(
    self, indices: Int64[np.ndarray, "n"]
  ) -> Int32[np.ndarray, "n {self.sequence_length}+1"]:
    """Returns the tokens of some rows."""
    return self._rows[indices].astype(np.int32)

  def mask(self, indices: Int64[np.ndarray, "n"]) -> Bool[np.ndarray, "n {self.sequence_length}"]:
    """Returns True where the target, the token after the position, is not padding."""
    return np.arange(1, self.sequence_length + 1) < self._lengths[indices][:, None]

  def _leaf_bounds(self, tree: Tree, level: int) -> np.ndarray:
    if tree.hash != self._clusters:
      raise ValueError(f"The store was made with cluster tree {self._clusters}, not {tree.hash}.")
    return tree.bounds(level)

  def ranges(self, tree: Tree, level: int) -> Int64[np.ndarray, "{level} 2"]:
    """Returns first row and end of each cluster of a level.

    Raises:
      UserError: the tree has no such level.
      ValueError: the store was made with another tree, or is not grouped by its leaves.
    """
    if not self._by_leaf:
      raise ValueError("The rows of this store are not grouped by cluster.")
    edges = self._offsets[self._leaf_bounds(tree, level)]
    return np.stack([edges[:-1], edges[1:]], axis=1)

  def range(self, tree: Tree, level: int, cluster: int) -> tuple[int, int]:
    """Returns first row and end of one cluster; raises as `ranges` does."""
    start, stop = self.ranges(tree, level)[cluster].tolist()
    return start, stop

  def counts(self, tree: Tree, level: int, max_tokens: int = 0) -> Int64[np.ndarray, "{level}"]:
    """Returns how many documents each cluster has, the paper's way to count.

    Args:
      tree: the tree by which the documents were assigned to leaves.
      level: K.
      max_tokens: count the documents that begin within so many tokens of the store; 0: all.

    Raises:
      As `ranges`, but for stores of both kinds.
    """
    begin = np.cumsum(self._doc_tokens, dtype=np.int64) - self._doc_tokens
    n = np.searchsorted(begin, max_tokens) if max_tokens else len(begin)
    bounds = self._leaf_bounds(tree, level)
    counts = np.bincount(self._doc_leaf[:n], minlength=bounds[-1])
    return np.add.reduceat(counts, bounds[:-1])

  def histogram(
    self, tree: Tree, level: int, max_tokens: int = 0
  ) -> Float64[np.ndarray, "{level}"]:
    """Returns P(c | these documents); arguments and errors are those of `counts`."""
    counts = self.counts(tree, level, max_tokens)
    return counts / counts.sum()

  def row_histogram(self, tree: Tree, level: int) -> Float64[np.ndarray, "{level}"]:
    """Returns P(c | these rows); raises as `ranges` does."""
    ranges = self.ranges(tree, level)
    return (ranges[:, 1] - ranges[:, 0]) / self.n_rows

  def first(self, max_tokens: int) -> int:
    """Returns how many rows, from the first, hold at most max_tokens tokens (0: all rows).

    Raises:
      UserError: not even one row does.
    """
    ends = np.cumsum(self._lengths, dtype=np.int64)
    n = int(np.searchsorted(ends, max_tokens, side="right")) if max_tokens else self.n_rows
    if not n:
      raise UserError(
        f"{max_tokens} tokens are fewer than the {ends[0]} of one row: allow more tokens or lower"
        " sequence_length."
      )
    return n


class Rolling(Store):
  """A store of evaluation form, as the windows of lm-eval's `loglikelihood_rolling`.

  Where a document's last row is not whole it begins earlier, in the row before, with tokens that
  are read again and not predicted again.
  """

  def __init__(self, folder: Path):
    super().__init__(folder)
    # Scores are known again by the store's hash, and these are others.
    self.hash = artifact.fingerprint(artifact.made_from(folder) | {"rolling": True})
    n_rows = -(-np.asarray(self._doc_tokens) // self.sequence_length)
    last = (np.cumsum(n_rows) - 1)[n_rows > 1]
    self._again = np.zeros(self.n_rows, np.int32)
    self._again[last] = self.sequence_length + 1 - self._lengths[last]

  def rows(
    self, indices: Int64[np.ndarray, "n"]
  ) -> Int32[np.ndarray, "n {self.sequence_length}+1"]:
    before, own = super().rows(np.maximum(indices - 1, 0)), super().rows(indices)
    both = np.concatenate([before[:, :-1], own], axis=1)  # A row begins with the last one's end.
    begin = self.sequence_length - self._again[indices][:, None]
    return np.take_along_axis(both, begin + np.arange(self.sequence_length + 1), axis=1)

  def mask(self, indices: Int64[np.ndarray, "n"]) -> Bool[np.ndarray, "n {self.sequence_length}"]:
    target, again = np.arange(1, self.sequence_length + 1), self._again[indices][:, None]
    return (target > again) & (target < self._lengths[indices][:, None] + again)

"""k-means on a mesh, and the tree of clusters that it gives.

Dimensions: n points, k clusters, D features of an embedding; leaves are the clusters of the finest
level. A tree is made from the top: the coarsest clusters are k-means of all points, and each level
divides the clusters of the one above, so that even few clusters are about equally large. Clusters
are numbered so that each is a range of leaves.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32, Int32, Int64
from sklearn.cluster import kmeans_plusplus

from specialization import artifact
from specialization.config import ClustersConfig
from specialization.errors import UserError
from specialization.metrics import progress

_DISTANCES = 1 << 22  # entries of the distance matrix that a device holds at a time
_HIGHEST = jax.lax.Precision.HIGHEST  # TF32 and bfloat16 would move points between clusters


def _nearest(
  points: jax.Array, centroids: jax.Array, apart: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Returns the nearest centroid of each point, i32[n], and its squared distance, f32[n].

  Args:
    points, centroids: f32[n, D] and f32[k, D].
    apart: bool[n, k], True where a point may not have a centroid.
  """
  cross = jnp.einsum("nd,kd->nk", points, centroids, precision=_HIGHEST)
  score = jnp.sum(centroids**2, axis=1) - 2 * cross
  if apart is not None:
    score = jnp.where(apart, jnp.inf, score)
  distance = jnp.sum(points**2, axis=1) + jnp.min(score, axis=1)
  return jnp.argmin(score, axis=1).astype(jnp.int32), jnp.maximum(distance, 0)


@functools.partial(jax.jit, static_argnames=("mesh", "chunk"))
def _iterate(
  points: jax.Array,
  weights: jax.Array,
  parts: jax.Array,
  previous: jax.Array,
  centroids: jax.Array,
  part_of: jax.Array,
  *,
  mesh: Mesh,
  chunk: int,
) -> tuple[jax.Array, ...]:
  """Assigns all points; returns what the next centroids are made of.

  Args:
    points, weights, parts, previous: f32[n, D], f32[n], i32[n] and the last assignment i32[n], all
      sharded.
    centroids, part_of: f32[k, D] and i32[k].
    mesh, chunk: over what they are sharded; points of a device that are handled at a time.

  Returns:
    Weighted sums f32[k, D] and total weights f32[k] of the clusters, the assignment i32[n], squared
    distances f32[n], how many points changed their cluster.
  """
  axes = PartitionSpec(mesh.axis_names)

  def shard(
    points: jax.Array,
    weights: jax.Array,
    parts: jax.Array,
    previous: jax.Array,
    centroids: jax.Array,
    part_of: jax.Array,
  ) -> tuple[jax.Array, ...]:
    def visit(
      totals: tuple[jax.Array, jax.Array], piece: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
      point, weight, part = piece
      nearest, distance = _nearest(point, centroids, part[:, None] != part_of)
      # A product with one-hot rows, not a scatter: the sum has the same order every time.
      member = jax.nn.one_hot(nearest, len(centroids)) * weight[:, None]
      sums = totals[0] + jnp.einsum("nk,nd->kd", member, point, precision=_HIGHEST)
      return (sums, totals[1] + member.sum(0)), (nearest, distance)

    zeros = jnp.zeros_like(centroids), jnp.zeros(len(centroids))
    pieces = points.reshape(-1, chunk, points.shape[1]), weights.reshape(-1, chunk)
    totals, (nearest, distance) = jax.lax.scan(visit, zeros, (*pieces, parts.reshape(-1, chunk)))
    nearest, distance = nearest.ravel(), distance.ravel()
    changed = jnp.sum((nearest != previous) & (weights > 0))
    sums, counts, changed = jax.lax.psum((*totals, changed), mesh.axis_names)
    return sums, counts, nearest, distance, changed

  whole = PartitionSpec()
  return jax.shard_map(
    shard,
    mesh=mesh,
    in_specs=(axes, axes, axes, axes, whole, whole),
    out_specs=(whole, whole, axes, axes, whole),
    check_vma=False,
  )(points, weights, parts, previous, centroids, part_of)


def _place(array: np.ndarray, size: int, mesh: Mesh) -> jax.Array:
  """Pads the first axis to `size` with zeros and spreads it over all devices."""

  def part(index: Any) -> np.ndarray:
    start, stop, _ = index[0].indices(size)
    piece = np.asarray(array[start:stop])
    return np.pad(piece, [(0, stop - start - len(piece)), *[(0, 0)] * (array.ndim - 1)])

  sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  return jax.make_array_from_callback((size, *array.shape[1:]), sharding, part)


@functools.partial(jax.jit, static_argnames="mesh")
def _replicate(array: jax.Array, mesh: Mesh) -> jax.Array:
  return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec()))


def lloyd(
  points: Float32[np.ndarray, "n D"],
  centroids: Float32[np.ndarray, "k D"],
  weights: Float32[np.ndarray, "n"],
  iterations: int,
  mesh: Mesh,
  parts: Int32[np.ndarray, "n"] | None = None,
  part_of: Int32[np.ndarray, "k"] | None = None,
) -> tuple[Float32[np.ndarray, "k D"], Int32[np.ndarray, "n"], float]:
  """Lloyd's algorithm: the steps of scikit-learn's KMeans(init=centroids, tol=0), on a mesh.

  Args:
    points: spread over all devices of the mesh.
    centroids: to start from.
    weights: of the points.
    iterations: at most; fewer if no point changes its cluster.
    mesh: any.
    parts, part_of: of each point and of each centroid; the parts are clustered apart from each
      other, in one pass over all. None: there is one.

  Returns:
    Centroids, the nearest of them to each point, and the weighted sum of squared distances. A
    cluster that loses all its points takes over the point farthest from its centroid.
  """
  parts = np.zeros(len(points), np.int32) if parts is None else parts
  part_of = np.zeros(len(centroids), np.int32) if part_of is None else part_of
  per_device = -(-len(points) // mesh.size)
  pieces = -(-per_device * len(centroids) // _DISTANCES)
  chunk = -(-per_device // pieces)
  size = mesh.size * pieces * chunk
  on_mesh = tuple(_place(array, size, mesh) for array in (points, weights, parts))
  previous = _place(np.full(len(points), -1, np.int32), size, mesh)
  centroids = centroids.copy()

  def fetch(array: jax.Array) -> np.ndarray:
    return np.asarray(_replicate(array, mesh))[: len(points)]

  with progress(iterations, f"k-means, {len(centroids)} clusters", "iteration") as bar:
    for iteration in range(iterations + 1):
      sums, counts, previous, distance, moved = _iterate(
        *on_mesh, previous, centroids, part_of, mesh=mesh, chunk=chunk
      )
      if iteration == iterations or not int(moved):
        break
      total, count = np.array(sums), np.array(counts)
      if not count.all():
        nearest, far = fetch(previous), fetch(distance)
        _fill_empty(total, count, points, weights, parts, part_of, nearest, far)
      np.divide(total, count[:, None], out=centroids, where=count[:, None] > 0)
      bar.update()
  inertia = np.sum(weights * fetch(distance), dtype=np.float64)
  return centroids, fetch(previous), float(inertia)


def _fill_empty(
  sums: np.ndarray,
  counts: np.ndarray,
  points: np.ndarray,
  weights: np.ndarray,
  parts: np.ndarray,
  part_of: np.ndarray,
  nearest: np.ndarray,
  distance: np.ndarray,
) -> None:
  """Moves the farthest points, one each, into their part's clusters without weight (in place)."""
  ordered = np.argsort(np.where(weights > 0, -distance, np.inf), kind="stable")
  farthest = {part: iter(ordered[parts[ordered] == part]) for part in set(part_of[counts == 0])}
  for empty in np.flatnonzero(counts == 0):
    for point in farthest[part_of[empty]]:
      weight, old = weights[point], nearest[point]
      if distance[point] == 0:
        break
      if counts[old] > weight:
        sums[old] -= weight * points[point]
        counts[old] -= weight
        sums[empty], counts[empty] = weight * points[point], weight
        break


@jax.jit
def _nearest_index(points: jax.Array, centroids: jax.Array) -> jax.Array:
  return _nearest(points, centroids)[0]


def assign(
  points: Float32[np.ndarray, "N D"], centroids: Float32[np.ndarray, "k D"]
) -> Int32[np.ndarray, "N"]:
  """Returns the nearest centroid of each point; `points` may be memory-mapped."""
  chunk = min(len(points), max(1, _DISTANCES // len(centroids)))
  nearest = np.empty(len(points), np.int32)
  for start in range(0, len(points), max(chunk, 1)):
    piece = np.asarray(points[start : start + chunk])
    padded = np.pad(piece, ((0, chunk - len(piece)), (0, 0)))
    nearest[start : start + chunk] = _nearest_index(padded, centroids)[: len(piece)]
  return nearest


@dataclasses.dataclass(frozen=True, eq=False)
class ClusterTree:
  """Nested clusterings of the same space.

  Attributes:
    levels: numbers of clusters, ascending; the last is the number of leaves.
    centroids: of the leaves.
    parents: for each level, and for level 1, the cluster that each leaf belongs to; ascending.
    hash: of what the tree was made from.
  """

  levels: tuple[int, ...]
  centroids: Float32[np.ndarray, "leaves D"]
  parents: Mapping[int, Int32[np.ndarray, "leaves"]]
  hash: str

  @property
  def n_leaves(self) -> int:
    return len(self.centroids)

  def bounds(self, level: int) -> Int64[np.ndarray, "{level}+1"]:
    """Returns the first leaf of each cluster of a level, and the number of leaves.

    Raises:
      UserError: the tree has no such level.
    """
    if level not in self.parents:
      raise UserError(
        f"The cluster tree has no level of {level} clusters: add it to clusters.levels or choose"
        f" one of {', '.join(map(str, self.parents))}."
      )
    return np.searchsorted(self.parents[level], np.arange(level + 1))

  def save(self, folder: Path) -> None:
    arrays: dict[str, Any] = {f"parents_{level}": of for level, of in self.parents.items()}
    np.savez(folder / "tree.npz", levels=self.levels, centroids=self.centroids, **arrays)

  @classmethod
  def load(cls, folder: Path) -> "ClusterTree":
    with np.load(folder / "tree.npz") as arrays:
      levels = tuple(arrays["levels"].tolist())
      parents = {level: arrays[f"parents_{level}"] for level in sorted({1, *levels})}
      tree_hash = artifact.fingerprint(artifact.made_from(folder))
      return cls(levels, arrays["centroids"], parents, tree_hash)


def _divide(
  points: np.ndarray, parts: np.ndarray, k: int, iterations: int, seed: int, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Divides parts into k clusters in all: k-means++ in each, then Lloyd in all at once.

  Args:
    points: f32[n, D].
    parts: i32[n], of each point; each part has at least one cluster of its own.
    k, iterations, seed, mesh: as for `build`.

  Returns:
    Centroids, the part of each, ascending, and the assignment; no cluster is empty.
  """
  members = [np.flatnonzero(parts == part) for part in range(parts.max() + 1)]
  starts = [
    kmeans_plusplus(points[own], count, random_state=seed)[0]
    for own, count in zip(members, _shares(points, members, k), strict=True)
  ]
  centroids = np.concatenate(starts)
  part_of = np.repeat(np.arange(len(starts), dtype=np.int32), [len(start) for start in starts])
  weights = np.ones(len(points), np.float32)
  centroids, assignment, _ = lloyd(points, centroids, weights, iterations, mesh, parts, part_of)
  # The last step may have emptied a cluster again. Each turn lowers the sum of distances, so that
  # 2 k turns are plenty unless points (nearly) coincide.
  for _ in range(2 * k + 1):
    empty = np.setdiff1d(np.arange(k), assignment)
    if not len(empty):
      return centroids, part_of, assignment
    distance = np.sum((points - centroids[assignment]) ** 2, axis=1)
    distance = np.where(parts == part_of[empty[0]], distance, 0)
    if distance.max() < 1e-12:
      break
    centroids[empty[0]] = points[np.argmax(distance)]
    centroids, assignment, _ = lloyd(points, centroids, weights, 0, mesh, parts, part_of)
  raise _too_few(len(points), len(np.unique(assignment)), k)


def _too_few(n: int, places: int, k: int) -> UserError:
  return UserError(
    f"The {n} documents that are clustered fall into only {places} different places, too few for"
    f" {k} clusters: lower clusters.levels or add generic text."
  )


def _shares(points: np.ndarray, members: list[np.ndarray], k: int) -> np.ndarray:
  """Returns into how many of k clusters each part is divided, by its sum of squared distances."""
  spread = np.array([np.sum(np.var(points[own], axis=0)) * len(own) for own in members])
  most = np.array([len(np.unique(points[own], axis=0)) for own in members])
  if most.sum() < k:
    raise _too_few(len(points), int(most.sum()), k)
  counts = np.ones(len(members), int)
  for _ in range(k - len(members)):
    counts[np.argmax(np.where(counts < most, spread / counts, -1.0))] += 1
  return counts


def build(
  points: Float32[np.ndarray, "n D"],
  levels: tuple[int, ...],
  iterations: int,
  seed: int,
  mesh: Mesh,
  tree_hash: str,
) -> ClusterTree:
  """Clusters points, divides the clusters into finer ones, and so on downward.

  Raises:
    UserError: levels are not ascending, or there are fewer (different) points than leaves.
  """
  if not levels or levels[0] < 1 or sorted(set(levels)) != list(levels):
    raise UserError(f"clusters.levels={levels} must be positive numbers, each above the last.")
  if levels[-1] > len(points):
    raise UserError(
      f"clusters.levels asks for {levels[-1]} clusters of only {len(points)} documents: lower it,"
      " raise clusters.fit_documents or add generic text."
    )
  assignment, parents = np.zeros(len(points), np.int32), dict[int, np.ndarray]()
  for level in levels:
    leaves, above, assignment = _divide(points, assignment, level, iterations, seed, mesh)
    parents = {coarse: of[above] for coarse, of in parents.items()}
    parents[level] = np.arange(level, dtype=np.int32)
  parents[1] = np.zeros(levels[-1], np.int32)
  return ClusterTree(levels, leaves, dict(sorted(parents.items())), tree_hash)


def most_flops(config: ClustersConfig, n: int, dimensions: int) -> float:
  """Returns the FLOPs that fitting the tree to n embeddings takes at most."""
  distances = min(n, config.fit_documents) * sum(config.levels)
  return 2.0 * distances * dimensions * config.iterations


def prepare(
  embeddings: Float32[np.ndarray, "N D"],
  config: ClustersConfig,
  folder: Path,
  seed: int,
  mesh: Mesh,
  made_from_hash: str,
) -> ClusterTree:
  """Returns the cluster tree of the generic documents, built unless the artifact is there.

  Args:
    embeddings: of the generic training documents; the tree is fitted on config.fit_documents of
      them, equally far from each other.
    config: levels and iterations.
    folder: the artifact.
    seed: of the initialization.
    mesh: to compute on.
    made_from_hash: of the embeddings.

  Raises:
    UserError: see `build`; or the artifact was made from something else.
  """
  made_from = {
    "embeddings": made_from_hash,
    "division": "from the top",
    "levels": config.levels,
    "fit_documents": config.fit_documents,
    "iterations": config.iterations,
    "seed": seed,
  }
  if not artifact.exists(folder, made_from):
    n = min(len(embeddings), config.fit_documents)
    points = np.ascontiguousarray(embeddings[np.arange(n) * len(embeddings) // max(n, 1)])
    tree = build(points, config.levels, config.iterations, seed, mesh, "")
    with artifact.create(folder, made_from) as temporary:
      tree.save(temporary)
  return ClusterTree.load(folder)

"""k-means against scikit-learn, on one and eight devices, and the tree that it gives."""

import warnings

import jax
import numpy as np
import pytest
from sklearn.cluster import KMeans

from specialization.config import ClustersConfig, MeshConfig
from specialization.data import clusters
from specialization.errors import UserError
from specialization.sharding import make_mesh

LEVELS = (3, 8, 32)


@pytest.fixture(scope="module")
def one():
  return make_mesh(MeshConfig(1, 1, 1, 1), jax.devices()[:1])


@pytest.fixture(scope="module")
def eight():
  return make_mesh(MeshConfig(2, 2, 1, 2))


def unit(rng, n, dimensions):
  points = rng.normal(size=(n, dimensions)).astype(np.float32)
  return points / np.linalg.norm(points, axis=1, keepdims=True)


def sklearn_lloyd(points, centroids, weights, iterations):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    means = KMeans(
      len(centroids), init=centroids, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd"
    )
    return means.fit(points, sample_weight=weights)


@pytest.mark.parametrize("iterations", [1, 4, 300])
def test_lloyd_equals_scikit_learn(one, eight, iterations):
  rng = np.random.default_rng(0)
  points, weights = unit(rng, 1501, 12), rng.uniform(0.1, 2, 1501).astype(np.float32)
  start = points[:20].copy()
  wanted = sklearn_lloyd(points, start, weights, iterations)
  for mesh in (one, eight):
    centroids, assignment, inertia = clusters.lloyd(points, start, weights, iterations, mesh)
    assert np.array_equal(assignment, wanted.labels_)
    assert np.abs(centroids - wanted.cluster_centers_).max() < 1e-4
    assert inertia == pytest.approx(wanted.inertia_, rel=1e-4)
  assert np.array_equal(start, points[:20])


def test_chunks_do_not_matter(one, eight, monkeypatch):
  rng = np.random.default_rng(3)
  points, weights = unit(rng, 700, 6), np.ones(700, np.float32)
  whole = clusters.lloyd(points, points[:10], weights, 5, one)
  monkeypatch.setattr(clusters, "_DISTANCES", 10 * 64)
  for mesh in (one, eight):
    cut = clusters.lloyd(points, points[:10], weights, 5, mesh)
    assert np.array_equal(cut[1], whole[1])
    assert np.abs(cut[0] - whole[0]).max() < 1e-6
    _, assignment, _ = clusters.lloyd(points, whole[0], weights, 0, mesh)
    assert np.array_equal(clusters.assign(points, whole[0]), assignment)


def test_an_empty_cluster_takes_the_farthest_point(one, eight):
  rng = np.random.default_rng(1)
  points, weights = unit(rng, 300, 5), np.ones(300, np.float32)
  start = points[:6].copy()
  start[4] = 50.0
  wanted = sklearn_lloyd(points, start, weights, 10)
  for mesh in (one, eight):
    centroids, assignment, _ = clusters.lloyd(points, start, weights, 10, mesh)
    assert set(assignment) == set(range(6))
    assert np.array_equal(assignment, wanted.labels_)
    assert np.abs(centroids - wanted.cluster_centers_).max() < 1e-4


def test_many_empty_clusters_are_filled(eight):
  points = unit(np.random.default_rng(2), 40, 5)
  start = np.full((20, 5), 9.0, np.float32)
  start[0] = points[0]
  _, assignment, _ = clusters.lloyd(points, start, np.ones(40, np.float32), 30, eight)
  assert set(assignment) == set(range(20))


def test_an_empty_cluster_does_not_empty_another(eight):
  points = np.array([[-1, 0], [0, 1], [0, -1], [1, 0], [6, 0]], np.float32)
  start = np.array([[0, 0], [10, 0], [99, 99]], np.float32)
  _, assignment, _ = clusters.lloyd(points, start, np.ones(5, np.float32), 1, eight)
  assert set(assignment) == {0, 1, 2}


def test_points_without_weight_do_not_count(one):
  rng = np.random.default_rng(4)
  points, weights = unit(rng, 100, 4), np.ones(100, np.float32)
  weights[50:] = 0
  some = clusters.lloyd(points, points[:5], weights, 20, one)
  half = clusters.lloyd(points[:50], points[:5], weights[:50], 20, one)
  assert np.array_equal(some[1][:50], half[1])
  assert np.abs(some[0] - half[0]).max() < 1e-6


def test_assign_is_the_nearest_centroid(tmp_path):
  points = unit(np.random.default_rng(5), 1000, 7)
  np.save(tmp_path / "points.npy", points)
  mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
  distances = ((points[:, None] - points[None, :30]) ** 2).sum(-1)
  assert np.array_equal(clusters.assign(mapped, points[:30]), distances.argmin(1))


@pytest.fixture(scope="module")
def points():
  return unit(np.random.default_rng(6), 900, 10)


@pytest.fixture(scope="module")
def tree(points, eight):
  return clusters.build(points, LEVELS, 20, 0, eight, "abc")


def test_tree_is_nested_and_contiguous(tree):
  assert tree.levels == LEVELS
  assert set(tree.parents) == {1, *LEVELS}
  assert tree.n_leaves == 32
  for level, finer in zip((1, *LEVELS), (*LEVELS, 32), strict=True):
    parent = tree.parents[level]
    # Ascending ids without a gap: every cluster is one range of leaves, and none is empty.
    assert set(np.diff(parent)) <= {0, 1}
    assert (parent[0], parent[-1]) == (0, level - 1)
    for cluster in range(finer):
      assert len(set(parent[tree.parents[finer] == cluster])) == 1
    bounds = tree.bounds(level)
    assert np.array_equal(np.repeat(np.arange(level), np.diff(bounds)), parent)


def test_every_leaf_has_a_document(tree, points):
  assert set(clusters.assign(points, tree.centroids)) == set(range(32))


def test_every_level_is_about_as_good_as_k_means_of_its_own(one):
  """Clustering the centroids of fine clusters is 1.2% worse with 4 clusters, and 2.1% with 32."""
  rng = np.random.default_rng(9)
  subjects, topics = unit(rng, 8, 50), unit(rng, 200, 50)
  points = subjects[np.arange(200) % 8][:, None] + topics[:, None]
  points = (points + 0.2 * rng.normal(size=(200, 20, 50))).reshape(-1, 50).astype(np.float32)
  tree = clusters.build(points, (4, 32, 256), 50, 0, one, "")
  leaf = clusters.assign(points, tree.centroids)
  for level, most in ((4, 1.005), (32, 1.012), (256, 1.04)):
    own = tree.parents[level][leaf]
    inertia = sum(
      len(part) * part.var(0).sum() for c in range(level) if len(part := points[own == c])
    )
    flat = KMeans(level, n_init=1, random_state=0).fit(points)
    assert inertia < most * flat.inertia_


def test_parts_are_clustered_apart_from_each_other(one, eight):
  points = unit(np.random.default_rng(10), 500, 6)
  weights = np.random.default_rng(11).uniform(0.1, 2, 500).astype(np.float32)
  parts, part_of = (np.arange(500, dtype=np.int32) * 7) % 3, np.array([0, 0, 1, 2, 2, 2], np.int32)
  start = points[[0, 3, 1, 2, 5, 8]]
  for mesh in (one, eight):
    centroids, assignment, inertia = clusters.lloyd(
      points, start, weights, 30, mesh, parts, part_of
    )
    total = 0.0
    for part in range(3):
      own, mine = parts == part, part_of == part
      wanted = clusters.lloyd(points[own], start[mine], weights[own], 30, mesh)
      assert np.abs(centroids[mine] - wanted[0]).max() < 1e-5
      assert np.array_equal(assignment[own], wanted[1] + np.flatnonzero(mine)[0])
      total += wanted[2]
    assert inertia == pytest.approx(total, rel=1e-5)


def test_an_empty_cluster_takes_a_point_of_its_own_part(eight):
  points = np.array([[0, 0], [1, 0], [2, 0], [0, 5], [0, 6], [0, 9]], np.float32)
  parts, part_of = np.array([0, 0, 0, 1, 1, 1], np.int32), np.array([0, 0, 1], np.int32)
  start = np.array([[0, 0], [99, 99], [0, 5]], np.float32)
  weights = np.ones(6, np.float32)
  centroids, assignment, _ = clusters.lloyd(points, start, weights, 5, eight, parts, part_of)
  assert assignment.tolist() == [0, 0, 1, 2, 2, 2]
  assert centroids.tolist() == [[0.5, 0], [2, 0], [0, pytest.approx(20 / 3)]]


def test_clusters_are_divided_by_how_far_they_spread(one):
  rng = np.random.default_rng(12)
  wide, narrow = 9 + rng.normal(size=(100, 3)), 0.3 * rng.normal(size=(100, 3))
  copies = np.full((100, 3), -9.0)
  points = np.concatenate([wide, narrow, copies]).astype(np.float32)
  tree = clusters.build(points, (3, 12), 20, 0, one, "")
  counts = np.diff(tree.bounds(3))
  places = [tree.centroids[start, 0] for start in tree.bounds(3)[:-1]]
  assert counts[np.argsort(places)].tolist() == [1, 1, 10]


def test_no_cluster_is_divided_into_more_than_its_places(one):
  cloud = 0.3 * np.random.default_rng(13).normal(size=(100, 3))
  copies = np.repeat([[100.0, 0, 0], [102.0, 0, 0]], 100, axis=0)
  points = np.concatenate([cloud, copies]).astype(np.float32)
  tree = clusters.build(points, (2, 8), 20, 0, one, "")
  assert sorted(np.diff(tree.bounds(2))) == [2, 6]


def test_tree_is_the_same_on_one_device(tree, points, one):
  other = clusters.build(points, LEVELS, 20, 0, one, "abc")
  assert np.abs(other.centroids - tree.centroids).max() < 1e-5
  for level in tree.parents:
    assert np.array_equal(other.parents[level], tree.parents[level])


def test_tree_finds_planted_clusters(eight):
  rng = np.random.default_rng(7)
  centers = np.eye(12, dtype=np.float32)
  label = rng.integers(0, 12, 600)
  planted = centers[label] + 0.01 * rng.normal(size=(600, 12)).astype(np.float32)
  tree = clusters.build(planted, (12,), 20, 0, eight, "")
  found = clusters.assign(planted, tree.centroids)
  assert len({(a, b) for a, b in zip(label, found, strict=True)}) == 12


def config(**changes):
  fields = dict(
    embedder="tfidf",
    dimensions=10,
    features=100,
    encoder="",
    max_length=1,
    fit_documents=500,
    levels=LEVELS,
    iterations=20,
  )
  return ClustersConfig(**(fields | changes))


def test_prepare_keeps_the_tree(points, one, tmp_path, monkeypatch):
  first = clusters.prepare(points, config(), tmp_path / "tree", 0, one, "e")
  monkeypatch.setattr(clusters, "build", None)
  again = clusters.prepare(points, config(), tmp_path / "tree", 0, one, "e")
  assert again.hash == first.hash != ""
  assert again.levels == LEVELS
  assert np.array_equal(again.centroids, first.centroids)
  for level in (1, *LEVELS):
    assert np.array_equal(again.parents[level], first.parents[level])
  with pytest.raises(UserError, match="embeddings"):
    clusters.prepare(points, config(), tmp_path / "tree", 0, one, "other")


def test_the_tree_is_fitted_on_documents_from_all_over(one, tmp_path):
  places = np.repeat(np.eye(12, dtype=np.float32), 50, axis=0)
  tree = clusters.prepare(
    places, config(levels=(12,), fit_documents=60), tmp_path / "tree", 0, one, ""
  )
  assert len(set(clusters.assign(places, tree.centroids))) == 12


def test_more_clusters_than_documents_is_refused(points, one, tmp_path):
  with pytest.raises(UserError, match="32 clusters of only 20 documents"):
    clusters.prepare(points, config(fit_documents=20), tmp_path / "tree", 0, one, "e")
  assert not (tmp_path / "tree").exists()


def test_clusters_that_end_empty_are_filled(points, one, monkeypatch):
  start = np.full((7, 10), 9.0, np.float32)
  monkeypatch.setattr(clusters, "kmeans_plusplus", lambda *_, **__: (start, None))
  parts = np.zeros(len(points), np.int32)
  centroids, part_of, assignment = clusters._divide(points, parts, 7, 0, 0, one)
  assert set(assignment) == set(range(7))
  assert not part_of.any()
  assert np.array_equal(clusters.assign(points, centroids), assignment)


def test_copies_of_few_documents_are_refused(one):
  copies = np.tile(unit(np.random.default_rng(8), 5, 6), (20, 1))
  with pytest.raises(UserError, match="only 5 different places, too few for 8 clusters"):
    clusters.build(copies, (8,), 20, 0, one, "")


@pytest.mark.parametrize("levels", [(), (8, 4), (4, 4), (0, 4)])
def test_levels_must_ascend(points, one, levels):
  with pytest.raises(UserError, match="levels"):
    clusters.build(points, levels, 5, 0, one, "")


def test_an_unknown_level_is_refused(tree):
  with pytest.raises(UserError, match="no level of 5 clusters"):
    tree.bounds(5)

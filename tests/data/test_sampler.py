"""Which rows make a batch: coverage, frequencies, random access."""

import time

import numpy as np
import pytest

from specialization.data import sampler as sampler_module
from specialization.data.sampler import ClusterSampler, ReplaySampler, permute
from specialization.errors import UserError


def ranges_of(sizes):
  ends = np.cumsum(sizes)
  return np.stack([ends - sizes, ends], axis=1).astype(np.int64)


def sampler(sizes, distribution, groups=4, rows=3, seed=0):
  schedule = [(0, np.asarray(distribution, np.float64))]
  return ClusterSampler(ranges_of(np.asarray(sizes)), schedule, groups, rows, seed)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 10, 16, 17, 100, 1023, 65_537])
def test_permute_is_a_permutation(size):
  for key in range(3):
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


def test_permute_differs_by_key_and_is_uniform():
  images = permute(np.zeros(20_000, np.int64), 7, np.arange(20_000, dtype=np.uint64))
  counts = np.bincount(images, minlength=7)
  assert np.abs(counts / 20_000 - 1 / 7).max() < 0.01
  orders = {tuple(permute(np.arange(4), 4, key).tolist()) for key in range(500)}
  assert len(orders) == 24


def test_permute_shuffles_neighbors():
  image = permute(np.arange(10_000), 10_000, 5)
  assert abs(np.corrcoef(np.arange(10_000), image)[0, 1]) < 0.05
  assert np.mean(np.abs(np.diff(image)) == 1) < 0.01


def test_permute_of_a_huge_range_takes_no_memory():
  values = permute(np.array([0, 1, 10**12 - 1]), 10**12, 1)
  assert len(set(values.tolist())) == 3
  assert ((values >= 0) & (values < 10**12)).all()


def test_plain_training_is_shuffled_epochs():
  one = sampler([101], [1.0], groups=1, rows=8)
  seen = np.concatenate([one.batch(step)[1].ravel() for step in range(101 * 3 // 8 + 1)])
  epochs = seen[: 101 * 3].reshape(3, 101)
  for epoch in epochs:
    assert np.array_equal(np.sort(epoch), np.arange(101))
  assert not np.array_equal(epochs[0], epochs[1])
  assert not np.array_equal(epochs[0], np.arange(101))


def test_no_row_repeats_before_its_cluster_is_exhausted():
  sizes = np.array([50, 7, 300, 12])
  drawn = sampler(sizes, [0.4, 0.1, 0.3, 0.2])
  seen = [[] for _ in sizes]
  for step in range(400):
    for cluster, rows in zip(*drawn.batch(step), strict=True):
      seen[cluster].extend(rows - ranges_of(sizes)[cluster, 0])
  for size, rows in zip(sizes, seen, strict=True):
    assert len(rows) > 2 * size
    for epoch in range(len(rows) // size):
      assert sorted(rows[epoch * size : (epoch + 1) * size]) == list(range(size))


@pytest.mark.parametrize("clusters", [3, 40, 1000])
def test_frequencies_match_the_distribution(clusters):
  rng = np.random.default_rng(clusters)
  p = rng.dirichlet(np.full(clusters, 0.3))
  drawn = sampler(np.full(clusters, 10), p, groups=16)
  n = 1000
  counts = np.zeros(clusters)
  for step in range(n):
    counts += np.bincount(drawn.batch(step)[0], minlength=clusters)
  # Each block is within one slot of its share, independently; six standard deviations.
  blocks = n * 16 / max(1024, 4 * clusters)
  assert np.abs(counts - n * 16 * p).max() < 6 * np.sqrt(blocks) / 2 + 6


def test_blocks_hold_their_share_to_within_one():
  p = np.array([0.305, 0.21, 0.485])
  counts = np.zeros(3)
  drawn = sampler([9, 9, 9], p, groups=1)
  for step in range(1024):
    counts += np.bincount(drawn.batch(step)[0], minlength=3)
  assert np.abs(counts - 1024 * p).max() < 1


@pytest.mark.parametrize(("clusters", "groups"), [(4, 4), (4, 12), (7, 7), (1, 3)])
def test_balanced_steps(clusters, groups):
  drawn = sampler(np.full(clusters, 5), np.full(clusters, 1 / clusters), groups=groups)
  for step in range(50):
    cluster, rows = drawn.batch(step)
    assert np.array_equal(cluster, np.repeat(np.arange(clusters), groups // clusters))
    assert (rows // 5 == cluster[:, None]).all()


def test_balanced_over_several_steps():
  drawn = sampler(np.full(12, 5), np.full(12, 1 / 12), groups=4)
  for block in range(20):
    clusters = np.concatenate([drawn.batch(3 * block + turn)[0] for turn in range(3)])
    assert np.array_equal(np.sort(clusters), np.arange(12))
  assert not np.array_equal(drawn.batch(0)[0], drawn.batch(3)[0])


def test_groups_are_sorted_by_cluster():
  drawn = sampler(np.full(30, 5), np.random.default_rng(0).dirichlet(np.ones(30)), groups=8)
  assert all((np.diff(drawn.batch(step)[0]) >= 0).all() for step in range(100))


@pytest.mark.parametrize("schedule_steps", [(0,), (0, 37, 90)])
def test_random_access_equals_sequential(schedule_steps):
  rng = np.random.default_rng(1)
  schedule = [(step, rng.dirichlet(np.ones(20))) for step in schedule_steps]
  ranges = ranges_of(rng.integers(3, 40, 20))
  once = ClusterSampler(ranges, schedule, 8, 2, 5)
  sequential = [once.batch(step) for step in range(200)]
  for step in [199, 0, 130, 36, 37, 38, 91, 64, 150]:
    fresh = ClusterSampler(ranges, schedule, 8, 2, 5)
    for a, b in zip(fresh.batch(step), sequential[step], strict=True):
      assert np.array_equal(a, b)


def test_visits_add_up_over_chunks_of_blocks(monkeypatch):
  monkeypatch.setattr(sampler_module, "_CHUNK_BLOCKS", 16)
  p, ranges = np.array([0.3001, 0.1999, 0.5]), ranges_of(np.array([10**6] * 3))
  walked = ClusterSampler(ranges, [(0, p)], 1024, 1, 0)
  visits = np.zeros(3)
  for step in range(100):
    visits += np.bincount(walked.batch(step)[0], minlength=3)
  fresh = ClusterSampler(ranges, [(0, p)], 1024, 1, 0)
  assert np.array_equal(fresh.repeats(100) * 10**6, visits)


def test_repeats_count_epochs():
  sizes = np.array([50, 7, 0, 12])
  drawn = sampler(sizes, [0.4, 0.2, 0.1, 0.3])
  for steps in [0, 1, 10, 137]:
    rows = np.zeros(4)
    for step in range(steps):
      rows += 3 * np.bincount(drawn.batch(step)[0], minlength=4)
    assert np.allclose(drawn.repeats(steps), rows / np.maximum(sizes, 1))
  assert drawn.repeats(137)[2] == 0


def test_a_late_step_needs_no_walk():
  rng = np.random.default_rng(0)
  late = sampler(rng.integers(1, 1000, 1024), rng.dirichlet(np.ones(1024)), groups=32, rows=4)
  start = time.perf_counter()
  late.batch(1_000_000)
  assert time.perf_counter() - start < 0.5


def test_schedule_change():
  before, after = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.25, 0.75])
  ranges = ranges_of(np.array([1000, 1000, 1000]))
  changed = ClusterSampler(ranges, [(0, before), (10, after)], 4, 2, 3)
  plain = ClusterSampler(ranges, [(0, before)], 4, 2, 3)
  seen = []
  for step in range(40):
    cluster, rows = changed.batch(step)
    if step < 10:
      assert np.array_equal(rows, plain.batch(step)[1])
      assert set(cluster) == {0, 1}
    else:
      assert cluster.tolist() == [1, 2, 2, 2]
    seen.extend(rows[cluster == 1].ravel().tolist())
  # Cluster 1 goes on in its epoch where the first distribution left it.
  assert len(seen) == len(set(seen)) == 2 * (10 * 2 + 30)


def test_seeds_differ_and_repeat():
  p = np.full(9, 1 / 9)
  a, b, c = (sampler(np.full(9, 100), p, seed=seed) for seed in (0, 0, 1))
  for part in (0, 1):
    assert np.array_equal(a.batch(3)[part], b.batch(3)[part])
    assert not np.array_equal(a.batch(3)[part], c.batch(3)[part])
  replayed = [ReplaySampler(50, 50, 0.5, 20, seed).batch(1)[1] for seed in (0, 0, 1)]
  assert np.array_equal(replayed[0], replayed[1])
  assert not np.array_equal(replayed[0], replayed[2])


def test_empty_clusters_are_left_out():
  drawn = sampler([10, 0, 10], [0.25, 0.5, 0.25], groups=4)
  for step in range(20):
    assert drawn.batch(step)[0].tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("distribution", [[0.0, 1.0], [0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0]])
def test_a_distribution_without_rows_is_refused(distribution):
  with pytest.raises(UserError, match="distribution over 2 clusters"):
    sampler([5, 0], distribution)


def test_a_schedule_out_of_order_is_refused():
  p = np.ones(1)
  for steps in [(), (1,), (0, 5, 5), (0, 5, 3)]:
    with pytest.raises(UserError, match="schedule"):
      ClusterSampler(ranges_of(np.array([5])), [(step, p) for step in steps], 1, 1, 0)


@pytest.mark.parametrize("replay", [0.01, 0.3, 0.5, 0.999])
def test_replay_share_is_exact(replay):
  drawn = ReplaySampler(40, 60, replay, rows_per_batch=7, seed=2)
  batches = [drawn.batch(step) for step in range(500)]
  source = np.concatenate([source for source, _ in batches])
  rows = np.concatenate([rows for _, rows in batches])
  n = np.arange(1, len(source) + 1)
  assert np.abs(np.cumsum(source) - n * replay).max() <= 1
  for which, size in enumerate((40, 60)):
    walked = rows[source == which]
    for epoch in range(len(walked) // size):
      assert np.array_equal(np.sort(walked[epoch * size : (epoch + 1) * size]), np.arange(size))


def test_no_replay_is_never_generic():
  drawn = ReplaySampler(10, 0, 0.0, rows_per_batch=5, seed=0)
  assert not any(drawn.batch(step)[0].any() for step in range(200))


def test_replay_without_rows_is_refused():
  with pytest.raises(UserError, match="generic rows"):
    ReplaySampler(10, 0, 0.1, 4, 0)
  with pytest.raises(UserError, match="domain rows"):
    ReplaySampler(0, 10, 0.0, 4, 0)

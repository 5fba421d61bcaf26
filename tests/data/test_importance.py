"""The resample's distribution and what is said of it, by hand."""

import math

import numpy as np
import pytest

from specialization.data import importance
from specialization.data.sampler import ClusterSampler, Merged

ROWS = np.array([50, 30, 20, 0])
GENERIC = ROWS / 100
COUNTS = np.array([1, 0, 7, 0])


def test_smoothing_adds_documents_of_generic_text():
  np.testing.assert_allclose(
    importance.smooth(COUNTS, GENERIC, 2.0), [2 / 10, 0.6 / 10, 7.4 / 10, 0]
  )
  np.testing.assert_allclose(importance.smooth(COUNTS, GENERIC, 0.0), COUNTS / 8)
  np.testing.assert_allclose(importance.smooth(np.zeros(4, int), GENERIC, 1.0), GENERIC)


def diagnosis(drawn=100, smoothing=0.0, most=4.0):
  return importance.diagnose(
    COUNTS, importance.smooth(COUNTS, GENERIC, smoothing), ROWS, drawn, most
  )


def test_effective_rows_are_those_of_the_weights():
  weights = np.repeat((COUNTS / 8 / np.where(ROWS, GENERIC, 1))[:3], ROWS[:3])
  expected = weights.sum() ** 2 / (weights**2).sum()
  assert diagnosis().effective_rows == pytest.approx(expected)
  same = importance.diagnose(np.array([5, 3, 2, 0]), GENERIC, ROWS, 100, 4.0)
  assert same.effective_rows == pytest.approx(100)


def test_repeats_and_the_share_that_is_repeated():
  d = diagnosis(drawn=100)
  np.testing.assert_allclose(d.repeats, [12.5 / 50, 0, 87.5 / 20, 0])
  assert d.repeated == pytest.approx(7 / 8)
  assert diagnosis(drawn=91).repeated == 0  # 3.98 times
  assert d.record()["most_repeats"] == pytest.approx(87.5 / 20)


def test_divergences():
  d, smoothed = diagnosis(), diagnosis(smoothing=8.0)
  assert d.kl == 0
  p = [1 / 8, 7 / 8]
  by_hand = sum(a * math.log(a / b) for a, b in zip(p, (0.5, 0.2), strict=True))
  assert d.kl_generic == pytest.approx(by_hand)
  q = [(1 + 4) / 16, (7 + 1.6) / 16]
  assert smoothed.kl == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
  assert d.entropy == pytest.approx(-sum(a * math.log(a) for a in p))
  assert d.top_share == 7 / 8


def test_documents_where_there_is_no_generic_text():
  d = importance.diagnose(np.array([1, 0, 0, 1]), np.array([0.5, 0, 0, 0.5]), ROWS, 10, 4.0)
  assert d.kl == d.kl_generic == math.inf
  assert d.repeats == (10 / 50, 0, 0, 0)


def test_the_rows_of_a_merged_sampler_follow_the_distribution():
  ranges = np.array([[0, 50], [50, 80], [80, 100], [100, 100]])
  distribution = importance.smooth(COUNTS, GENERIC, 2.0)
  merged = Merged(ClusterSampler(ranges, [(0, distribution)], 8, 1, 0))
  assert merged.shape == (1, 8)
  steps = 500
  drawn = [merged.indices(step) for step in range(steps)]
  assert all((cluster == 0).all() and (source == 0).all() for cluster, source, _ in drawn)
  rows = np.concatenate([row for _, _, row in drawn]).ravel()
  counts = np.bincount(np.searchsorted([50, 80, 100], rows, side="right"), minlength=4)
  np.testing.assert_allclose(counts / rows.size, distribution, atol=4 / rows.size * 8)
  within = np.bincount(rows, minlength=100)
  for start, stop in ranges[:3]:
    assert np.ptp(within[start:stop]) <= 1  # each row of a cluster equally often

"""A teacher's words on disk: each row once, the same numbers again."""

import numpy as np
import pytest

from specialization.data import teacher
from specialization.data.pipeline import Listed
from specialization.data.sampler import ReplaySampler

T, Q = 5, 3


@pytest.fixture
def asked(tmp_path):
  """A cache of the rows of three steps, with what was said of them."""
  sampler = ReplaySampler(domain_rows=7, generic_rows=1000, replay=0.3, rows_per_batch=4, seed=1)
  sources, rows = teacher.rows_of(sampler, 3)
  rng = np.random.default_rng(0)
  said = {
    "teacher_log_probs": np.log(rng.random((len(rows), T, Q)) / Q).astype(np.float32),
    "teacher_ids": rng.integers(0, 70_000, (len(rows), T, Q)),
  }
  feed = Listed(sources, rows, 4)
  pieces = []
  for step in range(feed.steps):  # As `Listed` gives them: the last rows are padding.
    at = np.minimum(np.arange(4 * step, 4 * step + 4), len(rows) - 1)
    pieces.append({name: part[at] for name, part in said.items()})
  teacher.write(
    tmp_path / "cache", {"of": 1}, (sources, rows), pieces, T, dict.fromkeys(said, Q), 70_000
  )
  return sampler, sources, rows, said, teacher.TeacherCache(tmp_path / "cache")


def test_rows_are_those_that_the_student_sees_each_once(asked):
  sampler, sources, rows, *_ = asked
  seen = {
    pair
    for step in range(3)
    for pair in zip(*(x.ravel().tolist() for x in sampler.indices(step)[1:]), strict=True)
  }
  assert list(zip(sources.tolist(), rows.tolist(), strict=True)) == sorted(seen)
  assert {source for source, _ in seen} == {0, 1}


def test_what_was_said_is_found_again(asked):
  sampler, sources, rows, said, cache = asked
  assert cache.sizes == {"teacher_log_probs": Q, "teacher_ids": Q}
  assert cache.bytes_per_token == Q * (2 + 4)
  known = {key: i for i, key in enumerate(zip(sources.tolist(), rows.tolist(), strict=True))}
  for step in range(3):
    _, source, row = sampler.indices(step)
    found = cache.at(source, row)
    at = [known[key] for key in zip(source[0].tolist(), row[0].tolist(), strict=True)]
    np.testing.assert_array_equal(found["teacher_ids"][0], said["teacher_ids"][at])
    np.testing.assert_allclose(
      found["teacher_log_probs"][0], said["teacher_log_probs"][at], rtol=1e-3
    )


def test_a_row_that_was_not_asked_about(asked):
  cache = asked[-1]
  with pytest.raises(KeyError, match="lacks a row"):
    cache.at(np.array([[1]], np.int8), np.array([[10**6]]))

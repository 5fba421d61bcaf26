"""Text in groups of clusters is scored by their experts."""

from unittest import mock

import numpy as np

from specialization.data.store import Store
from specialization.evaluate import Score
from specialization.phases.pretrain import Pretrained

RANGES = np.array([[0, 3], [3, 3], [3, 5]])


def test_each_document_is_scored_by_the_expert_of_its_cluster():
  asked = []

  def score(expert, store, rows):
    asked.append((expert, rows.tolist()))
    return Score(float(expert + 1), len(rows), 100)

  text = mock.Mock(spec=Store, hash="text", n_bytes=50)
  text.ranges.return_value = RANGES
  pretrained = mock.Mock(spec=Pretrained, data=mock.Mock(), _scores={})
  pretrained.family.clusters = len(RANGES)
  pretrained.evaluator = mock.Mock(score=score)
  pretrained.materialize = lambda mixture: int(np.argmax(mixture))
  found = [Pretrained.routed_score(pretrained, text) for _ in range(2)]
  assert asked == [(0, [0, 1, 2]), (2, [3, 4])]  # once for all cells, and not where there is none
  assert found == [Score(1.0 + 3.0, 5, 50)] * 2

"""Which expert each rule chooses, and what the choice costs."""

from unittest import mock

import numpy as np
import pytest

from specialization.evaluate import Score
from specialization.phases.choose import choose
from specialization.phases.prepare import DomainStores
from specialization.phases.pretrain import Pretrained

COUNTS = np.array([1.0, 5.0, 2.0, 0.0])
LOSSES = (3.0, 2.5, 1.5, 2.0)
ROW_TOKENS = 100


def chosen(rule, losses=LOSSES, experts=4, domain_tokens=800, choose_tokens=400):
  """Chooses among experts whose parameters are their numbers."""
  asked = []

  def score(expert, store, rows):
    asked.append(rows.tolist())
    tokens = len(rows) * ROW_TOKENS
    return Score(losses[expert] * tokens, tokens, tokens)

  pretrained = mock.Mock(spec=Pretrained, data=mock.Mock(), mesh=mock.Mock(size=1))
  pretrained.family.clusters = experts
  pretrained.evaluator = mock.Mock(score=score, flops_per_token=7.0)
  pretrained.materialize = lambda mixture: int(np.argmax(mixture))
  domain = mock.Mock(spec=DomainStores, train=mock.Mock())
  domain.train.histogram = lambda tree, k, tokens: COUNTS / COUNTS.sum()
  domain.train.first = lambda tokens: tokens // ROW_TOKENS
  return choose(rule, pretrained, domain, domain_tokens, choose_tokens), asked


def test_a_single_expert_is_no_choice():
  choice, asked = chosen("lowest_loss", experts=1)
  assert [mixture.tolist() for mixture in choice.mixtures] == [[1.0]]
  assert not asked


@pytest.mark.parametrize(
  ("rule", "mixtures", "cluster"),
  [
    ("most_frequent", [[0, 1, 0, 0]], 1),
    ("histogram", [[0.125, 0.625, 0.25, 0]], 1),
    ("lowest_loss", [[0, 0, 1, 0]], 2),
    ("all", np.eye(4).tolist(), 1),
  ],
)
def test_each_rule_chooses_its_mixtures(rule, mixtures, cluster):
  choice, _ = chosen(rule)
  assert [mixture.tolist() for mixture in choice.mixtures] == mixtures
  assert choice.about["cluster"] == cluster
  assert choice.about["share"] == COUNTS[cluster] / COUNTS.sum()


@pytest.mark.parametrize(("losses", "cluster"), [((3.0, 2.5, np.nan, 2.0), 3), ((np.nan,) * 4, 0)])
def test_an_expert_that_is_not_a_number_is_no_lowest_loss(losses, cluster):
  assert chosen("lowest_loss", losses)[0].about["cluster"] == cluster


@pytest.mark.parametrize(("domain_tokens", "rows"), [(800, 4), (300, 3)])
def test_scoring_every_expert_is_booked(domain_tokens, rows):
  choice, asked = chosen("lowest_loss", domain_tokens=domain_tokens)
  (entry,) = choice.ledger
  assert asked == [list(range(rows))] * 4
  assert entry.tokens == 4 * rows * ROW_TOKENS
  assert entry.flops == 7.0 * entry.tokens
  assert not chosen("most_frequent")[0].ledger

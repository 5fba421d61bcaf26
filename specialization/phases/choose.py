"""The choice of the expert for a domain (arXiv 2402.01093)."""

import dataclasses
import time
from typing import Any

import numpy as np

from specialization import budgets
from specialization.phases.prepare import DomainStores
from specialization.phases.pretrain import Pretrained


@dataclasses.dataclass(frozen=True)
class Choice:
  """What is fine-tuned.

  Attributes:
    mixtures: over clusters; of several, the one that is best after fine-tuning is kept.
    about: for the result: by which rule, which cluster, the share of the domain in it.
    ledger: what the choice cost.
  """

  mixtures: list[np.ndarray]
  about: dict[str, Any]
  ledger: list[budgets.Entry]


def choose(
  rule: str, pretrained: Pretrained, domain: DomainStores, domain_tokens: int, choose_tokens: int
) -> Choice:
  """Returns the mixtures that a rule chooses.

  Args:
    rule: most_frequent, lowest_loss, histogram or all.
    pretrained: the experts.
    domain: its training text is counted or scored.
    domain_tokens: of it that may be used.
    choose_tokens: of these that are scored, for lowest_loss.
  """
  k, tree = pretrained.family.clusters, pretrained.data.tree
  if k == 1:
    return Choice([np.ones(1)], {"choice": "only one", "cluster": None, "share": None}, [])
  histogram = domain.train.histogram(tree, k, domain_tokens)
  top, ledger = int(np.argmax(histogram)), list[budgets.Entry]()
  mixtures = [np.eye(k)[top]]
  if rule == "histogram":
    mixtures = [histogram]
  elif rule == "all":
    mixtures = list(np.eye(k))
  elif rule == "lowest_loss":
    rows = min(domain.train.first(n) for n in (domain_tokens, min(choose_tokens, domain_tokens)))
    top, ledger = _lowest_loss(pretrained, domain, rows)
    mixtures = [np.eye(k)[top]]
  return Choice(mixtures, about(rule, top, histogram), ledger)


def about(rule: str, cluster: int, histogram: np.ndarray) -> dict[str, Any]:
  """Returns what a result says of the choice."""
  return {"choice": rule, "cluster": cluster, "share": float(histogram[cluster])}


def _lowest_loss(
  pretrained: Pretrained, domain: DomainStores, rows: int
) -> tuple[int, list[budgets.Entry]]:
  """Returns the expert whose pretrained loss on the domain's training text is lowest."""
  k, evaluator = pretrained.family.clusters, pretrained.evaluator
  started = time.monotonic()
  scores = [
    evaluator.score(pretrained.materialize(np.eye(k)[c]), domain.train, np.arange(rows))
    for c in range(k)
  ]
  tokens = sum(score.tokens for score in scores)
  entry = budgets.entry(
    "specialization",
    "choose the expert",
    tokens,
    tokens * evaluator.flops_per_token,
    time.monotonic() - started,
    pretrained.mesh.size,
  )
  losses = [score.nll for score in scores]
  return int(np.argmin(np.nan_to_num(losses, nan=np.inf))), [entry]

"""Budgets against formulas by hand, and horizons against each other."""

import dataclasses

import pytest

from specialization import budgets
from specialization.config import ModelConfig
from specialization.errors import UserError
from specialization.method import HorizonConfig

VOCAB = 32_000
SLM = ModelConfig(
  d_model=1024,
  n_layers=7,
  n_heads=8,
  n_kv_heads=8,
  d_mlp=2816,
  rope_theta=10_000.0,
  norm_epsilon=1e-5,
  tie_embeddings=True,
)
LLM = dataclasses.replace(SLM, d_model=2816, d_mlp=7680, n_heads=22, n_kv_heads=22)


@pytest.mark.parametrize(
  ("model", "by_hand", "published"),
  [
    (SLM, 7 * (4 * 1024**2 + 3 * 1024 * 2816 + 2 * 1024) + 1024 + 32_000 * 1024, 126e6),
    (LLM, 7 * (4 * 2816**2 + 3 * 2816 * 7680 + 2 * 2816) + 2816 + 32_000 * 2816, 771e6),
  ],
)
def test_the_papers_sizes(model, by_hand, published):
  assert budgets.parameters(model, VOCAB) == by_hand
  assert by_hand == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize(
  ("changes", "more"),
  [
    ({"tie_embeddings": False}, 32_000 * 1024),
    ({"n_kv_heads": 2}, -7 * 2 * 1024 * 6 * 128),
    ({"n_layers": 8}, 4 * 1024**2 + 3 * 1024 * 2816 + 2 * 1024),
  ],
)
def test_parameters_of_variants(changes, more):
  changed = dataclasses.replace(SLM, **changes)
  assert budgets.parameters(changed, VOCAB) == budgets.parameters(SLM, VOCAB) + more


@pytest.mark.parametrize("tie", [True, False])
def test_flops_by_hand(tie):
  model = dataclasses.replace(SLM, tie_embeddings=tie)
  kernels = 7 * (4 * 1024**2 + 3 * 1024 * 2816) + 32_000 * 1024  # the table's look-up is free
  attention = 7 * (2 * 256 * 1024 + 2 * 256 * 1024)  # q k^T, and weights times v
  forward = 2 * kernels + attention
  assert budgets.forward_flops_per_token(model, VOCAB, 256) == forward
  assert budgets.train_flops_per_token(model, VOCAB, 256) == 3 * forward


def horizon(**given):
  fields = dict(steps=0, tokens=0.0, flops=0.0, device_hours=0.0, sustained_flops=0.0)
  return HorizonConfig(**(fields | given))


@pytest.mark.parametrize("steps", [1, 7, 12_345])
@pytest.mark.parametrize(
  "of",
  [
    lambda steps: horizon(steps=steps),
    lambda steps: horizon(tokens=steps * 4096.0),
    lambda steps: horizon(tokens=steps * 4096.0 + 4095),
    lambda steps: horizon(flops=steps * 3e9 + 1e9),
    lambda steps: horizon(device_hours=(steps * 3e9 + 1e9) / 2e9 / 3600, sustained_flops=2e9),
  ],
  ids=["steps", "tokens", "more tokens", "flops", "device hours"],
)
def test_a_horizon_pays_for_whole_steps(of, steps):
  assert budgets.steps(of(steps), tokens_per_step=4096, flops_per_step=3e9) == steps


@pytest.mark.parametrize(
  "given", [{"tokens": 4095.0}, {"flops": 2.9e9}, {"device_hours": 1e-9, "sustained_flops": 2e9}]
)
def test_a_horizon_below_one_step_is_refused(given):
  with pytest.raises(UserError, match="too small for one step of 4,096 tokens and 3e\\+09 FLOPs"):
    budgets.steps(horizon(**given), tokens_per_step=4096, flops_per_step=3e9)


def test_the_ledger_adds_up_by_book():
  ledger = [
    budgets.entry("generic", "pretrain", tokens=100, flops=1e3, seconds=1800.0, devices=4),
    budgets.entry("specialization", "law", tokens=10, flops=1e2, seconds=3600.0),
    budgets.entry("specialization", "sea", tokens=20, flops=2e2, seconds=360.0, devices=2),
    budgets.entry("data", "cluster", seconds=36.0),
  ]
  assert [e.device_hours for e in ledger] == pytest.approx([2, 1, 0.2, 0.01])
  both = budgets.total(ledger, ("generic", "specialization"))
  assert (both.book, both.tokens, both.flops) == ("generic+specialization", 130, 1300)
  assert (both.seconds, both.device_hours) == pytest.approx((5760, 3.2))
  assert budgets.total(ledger).seconds == 5796
  assert budgets.total(ledger, ("inference",)).tokens == 0
  with pytest.raises(AssertionError, match="other"):
    budgets.entry("other", "pretrain")


@pytest.mark.parametrize(
  ("number", "text"),
  [
    *[(0.0, "0"), (999.0, "999"), (1000, "1k"), (122_698_752, "123M"), (7.04e9, "7.04G")],
    *[(-2e12, "-2T"), (3e15, "3P"), (1.2e21, "1.2e+03E")],
  ],
)
def test_numbers_are_readable(number, text):
  assert budgets.readable(number) == text

"""How many steps budgets leave to a pretraining."""

import dataclasses

import pytest

import every_method
from specialization import main
from specialization.phases.build import flops_per_step, make_method, pretraining_steps


def spent(config, method):
  """Returns the FLOPs of a step."""
  row = config.methods[method]
  return flops_per_step(make_method(config, row), row.pretrain, config.sequence_length)


def steps(config, method, generic_flops):
  budgets = dataclasses.replace(config.budgets, generic_flops=generic_flops)
  config, row = dataclasses.replace(config, budgets=budgets), config.methods[method]
  return pretraining_steps(config, row, make_method(config, row))


@pytest.mark.parametrize(
  ("changes", "before"),
  [
    ({}, {"large": 8}),
    ({"branch": "dense", "branch_share": 0.5}, {"large": 8, "dense": 4}),
    ({"teacher": "none"}, {}),
    ({"teacher": "is"}, {}),
    ({"teacher": "mixture"}, {"mixture": 8}),
    # A teacher and a branch that are one method are both paid.
    ({"teacher": "dense", "branch": "dense", "branch_share": 0.25}, {"dense": 10}),
  ],
)
def test_a_generic_budget_pays_for_teachers_and_branches_first(changes, before):
  fields = {f"methods.taught.{name}": value for name, value in changes.items()}
  config = main.load_config(f"{every_method.__file__}:corpus", fields)
  flops = sum(n * spent(config, method) for method, n in before.items())
  assert steps(config, "taught", flops + 3.5 * spent(config, "taught")) == 3


def test_a_teachers_own_branch_is_paid_too():
  fields = {"methods.mixture.branch": "dense", "methods.mixture.branch_share": 0.5}
  config = main.load_config(
    f"{every_method.__file__}:corpus", fields | {"methods.taught.teacher": "mixture"}
  )
  before = 4 * spent(config, "dense") + 8 * spent(config, "mixture")
  assert steps(config, "taught", before + 2.5 * spent(config, "taught")) == 2

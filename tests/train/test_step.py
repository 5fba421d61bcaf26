"""One step: microbatches, meshes, the division by the token count, compilation."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from specialization import losses
from specialization.errors import UserError
from specialization.train.step import batch_shardings, cuts, loss_and_grads

SGD = dataclasses.replace(tiny.OPTIMIZER, epsilon=1e3, learning_rate=1e3, weight_decay=0.0)
MESHES = (
  {"data": 2, "fsdp": 4},
  {"expert": 4, "data": 2},
  {"fsdp": 4, "model": 2},
  {"expert": 2, "fsdp": 2, "model": 2},
)


@pytest.mark.parametrize(
  ("microbatches", "group_shards"), [(2, 1), (4, 1), (16, 1), (4, 2), (4, 4)]
)
@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_microbatched_equals_not_microbatched_with_unequal_masks(name, microbatches, group_shards):
  of = tiny.family(name)
  params = of.init(jax.random.key(0))
  example = tiny.batch(rows=4)
  example["mask"][:, 0] = False  # One microbatch has far fewer tokens than the others.
  example["mask"][:, 1, 3:] = False

  def run(microbatches, group_shards):
    nats, count, grads = loss_and_grads(
      of,
      losses.next_token,
      params,
      jax.device_put(example),
      complete=False,
      microbatches=microbatches,
      group_shards=group_shards,
    )
    return nats / count, count, jax.tree.map(lambda g: g / count, grads)

  chex.assert_trees_all_close(run(microbatches, group_shards), run(1, 1), rtol=1e-4, atol=1e-6)


def test_microbatches_are_of_groups_first_and_of_some_of_every_shard():
  assert cuts(16, 4, 1, 1) == (1, 1)
  assert cuts(16, 4, 8, 1) == (8, 1)
  assert cuts(16, 4, 32, 1) == (16, 2)
  assert cuts(16, 4, 8, 4) == (4, 2)
  assert cuts(1, 16, 4, 1) == (1, 4)
  with pytest.raises(UserError, match=r"the 1 groups .* 16 rows of a group: 2 would\."):
    cuts(1, 16, 6, 1)


def test_loss_is_a_sum_over_tokens_divided_once():
  of = tiny.family("projected")
  params = of.init(jax.random.key(0))
  example = jax.device_put(tiny.batch())
  nats, count, _ = loss_and_grads(
    of, losses.next_token, params, example, complete=False, microbatches=1
  )
  total = 0.0
  for group, cluster in enumerate(example["cluster"]):
    small = of.materialize(params, jax.nn.one_hot(cluster, of.clusters))
    logits = of.transformer.logits(small, example["tokens"][group, :, :-1])
    log_p = np.asarray(jax.nn.log_softmax(logits))
    chosen = np.take_along_axis(log_p, example["tokens"][group, :, 1:, None], -1)[..., 0]
    total -= chosen[example["mask"][group]].sum()
  np.testing.assert_allclose(float(nats), total, rtol=1e-5)
  assert int(count) == int(example["mask"].sum())


def _run(name, mesh, steps=3, microbatches=1):
  """Parameters at the start, gradients of the first batch, losses of three steps, the step."""
  of = tiny.family(name)
  complete = name == "mixture"
  example = tiny.batch(rows=8)
  with jax.set_mesh(mesh):
    state, step, put = tiny.trainer(of, mesh, example, SGD, complete, microbatches)
    first = jax.tree.map(np.array, state.params)
    seen = []
    for seed in range(steps):
      state, metrics = step(state, put(tiny.batch(rows=8, seed=seed)))
      seen.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    # Adam with a large epsilon moves along the gradient, and does not blow up its rounding.
    moved = jax.tree.map(lambda new, old: np.array(new) - old, state.params, first)
  return first, moved, seen, step


@pytest.fixture(scope="module")
def single():
  return {name: _run(name, tiny.mesh()) for name in tiny.FAMILIES}


@pytest.mark.parametrize(("sizes", "microbatches"), [*((m, 1) for m in MESHES), (MESHES[3], 4)])
@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_eight_devices_equal_one(name, sizes, microbatches, single):
  first, moved, seen, step = _run(name, tiny.mesh(8, **sizes), microbatches=microbatches)
  chex.assert_trees_all_equal(first, single[name][0])
  np.testing.assert_allclose(seen, single[name][2], rtol=1e-5)
  chex.assert_trees_all_close(moved, single[name][1], rtol=1e-4, atol=1e-6)
  assert step._cache_size() == 1, "the step was compiled more than once"


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(UserError, match=r"does not divide over mesh\.data=8"):
    batch_shardings(tiny.mesh(8, data=8), 1, 3, tiny.LENGTH)
  with pytest.raises(UserError, match=r"does not divide over mesh\.expert=8"):
    batch_shardings(tiny.mesh(8, expert=8), 3, 8, tiny.LENGTH)


def test_masked_tokens_do_not_count():
  logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
  targets = jnp.array([[0, 1, 2], [3, 4, 0]])
  mask = jnp.array([[True, False, True], [False, False, True]])
  nats, count = losses.next_token(logits, targets, mask)
  log_p = jax.nn.log_softmax(logits)
  np.testing.assert_allclose(nats, -(log_p[0, 0, 0] + log_p[0, 2, 2] + log_p[1, 2, 0]), rtol=1e-6)
  assert count == 3

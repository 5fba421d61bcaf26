"""Schedules, and updates against optax and by hand."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from specialization import optim
from specialization.errors import UserError


def _schedule(steps=100, **changes):
  return optim.schedule(dataclasses.replace(tiny.OPTIMIZER, learning_rate=1.0, **changes), steps)


def test_warmup_is_linear_and_moves_from_the_first_step():
  of = _schedule(warmup_share=0.1)
  np.testing.assert_allclose(
    [of(i) for i in range(12)], [*np.arange(0.1, 1.05, 0.1), 1, 1], rtol=1e-6
  )


def test_cosine_ends_at_its_final_share():
  of = _schedule(schedule="cosine", warmup_share=0.1, final_share=0.2)
  np.testing.assert_allclose([of(10), of(55), of(100)], [1.0, 0.6, 0.2], rtol=1e-6)


def test_wsd_is_stable_then_decays():
  of = _schedule(schedule="wsd", warmup_share=0.1, cooldown_share=0.2, final_share=0.5)
  np.testing.assert_allclose([of(10), of(79), of(90), of(100)], [1, 1, 0.75, 0.5], rtol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "wsd"])
def test_schedules_of_one_step(schedule):
  of = _schedule(1, schedule=schedule, warmup_share=0.05, cooldown_share=0.2)
  assert 0 < float(of(0)) <= 1


def _updates(of, config, grads, params):
  tx = optim.make_optimizer(config, 100, params, of.axes())
  updates, _ = tx.update(grads, tx.init(params), params)
  return updates


def _fake(of, seed=0):
  params = of.init(jax.random.key(seed))
  keys = jax.random.split(jax.random.key(seed + 1), len(jax.tree.leaves(params)))
  flat, treedef = jax.tree.flatten(params)
  grads = treedef.unflatten(
    [jax.random.normal(k, p.shape) for k, p in zip(keys, flat, strict=True)]
  )
  return params, grads


def test_adamw_equals_optax():
  of = tiny.family("dense")
  params, grads = _fake(of)
  mask = jax.tree.map(lambda name: name.endswith("kernel"), optim.names(params))
  c = tiny.OPTIMIZER
  reference = optax.chain(
    optax.clip_by_global_norm(c.clip_norm),
    optax.adamw(c.learning_rate, c.b1, c.b2, c.epsilon, weight_decay=c.weight_decay, mask=mask),
  )
  expected, _ = reference.update(grads, reference.init(params), params)
  chex.assert_trees_all_close(_updates(of, c, grads, params), expected, rtol=1e-5, atol=1e-9)


def test_experts_are_clipped_on_their_own():
  of = tiny.family("mixture")
  _, grads = _fake(of)
  loud = jax.tree.map(lambda g, at: g.at[(slice(None),) * at + (0,)].mul(1e6), grads, of.group_axes)
  clip = optim.clip(1.0, of.axes())
  quiet, _ = clip.update(grads, clip.init(grads))
  after, _ = clip.update(loud, clip.init(loud))
  for expert in range(1, of.clusters):
    take = lambda leaf, at: jnp.take(leaf, expert, axis=at)  # noqa: B023, E731
    chex.assert_trees_all_close(
      jax.tree.map(take, after, of.group_axes), jax.tree.map(take, quiet, of.group_axes), rtol=1e-5
    )
    norm = optax.global_norm(jax.tree.map(take, after, of.group_axes))
    np.testing.assert_allclose(norm, 1.0, rtol=1e-4)


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_muon_makes_kernels_orthogonal_layer_by_layer(name):
  of = tiny.family(name)
  params, grads = _fake(of)
  config = dataclasses.replace(tiny.OPTIMIZER, name="muon", weight_decay=0.0, learning_rate=1.0)
  updates = _updates(of, config, grads, params)
  for path, update in jax.tree_util.tree_leaves_with_path(updates):
    if jax.tree_util.keystr(path).endswith(("kernel']", "basis']")):
      values = np.linalg.svd(np.asarray(update), compute_uv=False)
      # Five Newton-Schulz iterations leave the smallest few singular values behind.
      spread = np.quantile(values, 0.25, axis=-1) / values.max(-1)
      assert (spread > 0.5).all(), path
    else:  # Adam's first step is the sign.
      np.testing.assert_allclose(np.abs(update), 1.0, rtol=1e-2)
  flat = jax.tree.map(lambda u, g: float((u * g).sum()) < 0, updates, grads)
  assert all(jax.tree.leaves(flat)), "every update goes against its gradient"


def test_learning_rate_factors_freeze_and_scale():
  of = tiny.family("projected")
  params, grads = _fake(of)
  rates = ((".*basis", 0.0), ("codes", 0.5), (".*", 1.0))
  plain = _updates(of, tiny.OPTIMIZER, grads, params)
  scaled = _updates(of, dataclasses.replace(tiny.OPTIMIZER, learning_rates=rates), grads, params)
  assert not any(jnp.any(leaf["basis"]) for leaf in scaled["layers"]["mlp"].values())
  np.testing.assert_allclose(scaled["codes"], 0.5 * plain["codes"], rtol=1e-6)
  chex.assert_trees_all_close(scaled["layers"]["attention"], plain["layers"]["attention"])


def test_every_parameter_must_match_a_pattern():
  of = tiny.family("projected")
  with pytest.raises(UserError, match="codes"):
    optim.by_name(((".*(kernel|basis|scale|mixer|table)", 1.0),), of.shapes(), "decay")

"""The transformer: causality, attention variants, compute options, counts."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

import tiny
from specialization import budgets, layers


def test_causality_by_gradient():
  """No logit depends on a later token, and each depends on all earlier ones."""
  model = tiny.transformer()
  params = model.initialize(jax.random.key(0))
  tokens = jnp.arange(8)[None] % tiny.VOCAB
  table = params["embedding"]["table"]

  def logit(offset, position):
    # Tokens are discrete: shift the embedding of each position instead.
    shifted = params | {"embedding": {"table": jnp.concatenate([table[:8] + offset, table[8:]])}}
    return model.logits(shifted, tokens)[0, position, 50:].sum()

  for position in range(8):
    moved = jnp.abs(jax.grad(logit)(jnp.zeros((8, table.shape[1])), position)).sum(axis=1)
    assert (moved[: position + 1] > 0).all()
    np.testing.assert_array_equal(moved[position + 1 :], 0.0)


@pytest.mark.parametrize(
  "changes",
  [
    {"remat": "full"},
    {"remat": "dots"},
    {"scan_unroll": 2},
    {"attention": "blocked"},
  ],
  ids=str,
)
def test_compute_options_change_only_rounding(changes):
  tokens = jax.random.randint(jax.random.key(1), (2, 17), 0, tiny.VOCAB)
  params = tiny.transformer().initialize(jax.random.key(0))

  def of(compute):
    model = tiny.transformer(compute)
    return jax.value_and_grad(lambda p: (model.logits(p, tokens[:, :-1]) ** 2).mean())(params)

  changed = of(dataclasses.replace(tiny.COMPUTE, **changes))
  chex.assert_trees_all_close(changed, of(tiny.COMPUTE), rtol=1e-4, atol=1e-6)


def test_bfloat16_is_near_float32_and_gives_float32_gradients():
  tokens = jax.random.randint(jax.random.key(1), (2, 16), 0, tiny.VOCAB)
  params = tiny.transformer().initialize(jax.random.key(0))
  wide = tiny.transformer()
  narrow = tiny.transformer(dataclasses.replace(tiny.COMPUTE, dtype="bfloat16"))
  difference = wide.logits(params, tokens) - narrow.logits(params, tokens)
  assert 0 < float(jnp.abs(difference).max()) < 0.1
  grads = jax.grad(lambda p: narrow.logits(p, tokens).sum())(params)
  assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype("float32")}


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"n_kv_heads": 4}], ids=str)
def test_parameter_count_equals_the_tree(changes):
  model = tiny.transformer(**changes)
  shapes, axes = model.abstract()
  assert budgets.parameters(model.config, tiny.VOCAB) == sum(
    s.size for s in jax.tree.leaves(shapes)
  )
  for shape, names in zip(
    jax.tree.leaves(shapes),
    jax.tree.leaves(axes, is_leaf=lambda a: isinstance(a, tuple)),
    strict=True,
  ):
    assert len(shape.shape) == len(names)


def _inner(params):
  for value in params.values():
    if isinstance(value, ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, Jaxpr):
      yield value


def product_flops(jaxpr) -> int:
  """Multiplications and additions of all matrix products, scanned bodies as often as they run."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      lhs = equation.invars[0].aval.shape
      total += 2 * equation.outvars[0].aval.size * int(np.prod([lhs[i] for i in contracted]))
    times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    for inner in _inner(equation.params):
      total += times * product_flops(inner)
  return total


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"n_kv_heads": 4}], ids=str)
def test_flops_equal_a_walk_over_the_jaxpr(changes):
  model = tiny.transformer(**changes)
  params = model.abstract()[0]
  tokens = jax.ShapeDtypeStruct((3, tiny.LENGTH), np.int32)
  per_token = budgets.forward_flops_per_token(model.config, tiny.VOCAB, tiny.LENGTH)
  forward = jax.make_jaxpr(model.logits)(params, tokens)
  assert product_flops(forward.jaxpr) == per_token * 3 * tiny.LENGTH
  train = jax.make_jaxpr(jax.grad(lambda p, t: model.logits(p, t).sum()))(params, tokens)
  expected = budgets.train_flops_per_token(model.config, tiny.VOCAB, tiny.LENGTH)
  assert product_flops(train.jaxpr) == expected * 3 * tiny.LENGTH


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_family_flops_equal_a_walk_over_the_jaxpr(name):
  of = tiny.family(name)
  walked = jax.make_jaxpr(of.materialize)(
    of.shapes(), jax.ShapeDtypeStruct((of.clusters,), np.float32)
  )
  if name == "mixture":  # In training its experts are taken, not averaged.
    walked = jax.make_jaxpr(of.experts)(of.shapes(), jax.ShapeDtypeStruct((1,), np.int32))
  assert product_flops(walked.jaxpr) == of.materialize_flops()
  assert of.parameters() == sum(s.size for s in jax.tree.leaves(of.shapes()))


def test_a_parameter_of_another_shape_is_refused():
  of = tiny.transformer()
  params = of.initialize(jax.random.key(0))
  params["final_norm"]["scale"] = jnp.ones(tiny.MODEL.d_model + 1)
  with pytest.raises(ValueError, match=r"final_norm/scale is \(33,\), not \(32,\)"):
    of.logits(params, jnp.zeros((1, 4), jnp.int32))


def test_slow_waves_are_slowed_and_fast_ones_are_kept():
  kept = layers.slowed(64, 500_000.0, (32.0, 1.0, 4.0, 8192.0))
  waves = 8192 * 500_000.0 ** (-np.arange(64) / 64) / (2 * np.pi)  # in the original length
  np.testing.assert_allclose(kept[waves > 4], 1)
  np.testing.assert_allclose(kept[waves < 1], 1 / 32)
  middle = kept[(waves > 1) & (waves < 4)]
  assert len(middle)
  assert (np.diff(middle) < 0).all()
  assert ((middle > 1 / 32) & (middle < 1)).all()
  assert (layers.slowed(64, 500_000.0, ()) == 1).all()

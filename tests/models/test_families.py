"""The contract of families: materialize, experts, and what the paper says of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from specialization.errors import UserError
from specialization.models import make_family, projected
from specialization.strict import parse


def _params(name, **kwargs):
  of = tiny.family(name, **kwargs)
  return of, of.init(jax.random.key(0))


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_materialize_is_linear_in_the_mixture(name):
  of, params = _params(name)
  a, b = (jax.random.dirichlet(jax.random.key(i), jnp.ones(of.clusters)) for i in range(2))
  mixed = of.materialize(params, 0.3 * a + 0.7 * b)
  separate = jax.tree.map(
    lambda x, y: 0.3 * x + 0.7 * y, of.materialize(params, a), of.materialize(params, b)
  )
  chex.assert_trees_all_close(mixed, separate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_materialized_parameters_are_a_transformer(name):
  of, params = _params(name)
  out = of.materialize(params, jnp.full((of.clusters,), 1 / of.clusters))
  chex.assert_trees_all_equal_shapes_and_dtypes(out, of.transformer.abstract()[0])


def _pick(of, stacked, group):
  """The transformer of one group; parameters without a group axis are shared."""
  return jax.tree.map(
    lambda at, leaf: leaf if at is None else jnp.take(leaf, group, axis=at),
    of.group_axes,
    stacked,
    is_leaf=lambda at: at is None,
  )


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_experts_equal_materialized_one_hots(name):
  of, params = _params(name)
  clusters = np.array([2, 0, 2, 3]) % of.clusters
  stacked = of.experts(params, jnp.asarray(clusters))
  for group, cluster in enumerate(clusters):
    alone = of.materialize(params, jax.nn.one_hot(cluster, of.clusters))
    picked = _pick(of, stacked, group)
    chex.assert_trees_all_close(picked, alone, rtol=1e-5, atol=1e-6)
  everyone = of.experts(params, None)
  in_order = of.experts(params, jnp.arange(of.clusters))
  chex.assert_trees_all_close(everyone, in_order, rtol=1e-6)


@pytest.mark.parametrize("cluster", range(tiny.CLUSTERS))
def test_projected_logits_equal_those_of_its_transformer(cluster):
  """The kernels formed by the paper's double sum, by hand, give the logits of `materialize`."""
  of, params = _params("projected")
  tokens = jax.random.randint(jax.random.key(2), (2, tiny.LENGTH), 0, tiny.VOCAB)
  small = of.materialize(params, jax.nn.one_hot(cluster, of.clusters))

  by_hand = jax.tree.map(np.asarray, of.transformer.initialize(jax.random.key(9)))
  for name in ("embedding", "final_norm"):
    by_hand[name] = params[name]
  for name in ("attention", "attention_norm", "mlp_norm"):
    by_hand["layers"][name] = params["layers"][name]
  rank, code = of.options.rank, of.options.code
  for name, p in params["layers"]["mlp"].items():
    kernel = np.zeros(p["basis"].shape[:1] + p["basis"].shape[2:])
    for layer in range(tiny.MODEL.n_layers):
      for q in range(code):
        for r in range(rank):
          weight = float(params["codes"][cluster, q]) * float(p["mixer"][layer, q, r]) / rank
          kernel[layer] += weight * np.asarray(p["basis"][layer, r])
    by_hand["layers"]["mlp"][name] = {"kernel": jnp.asarray(kernel, jnp.float32)}
  np.testing.assert_allclose(
    of.transformer.logits(small, tokens),
    of.transformer.logits(by_hand, tokens),
    rtol=1e-4,
    atol=1e-5,
  )


def test_projected_starts_with_the_dense_variance_and_near_experts():
  of = make_family("projected", tiny.transformer(), 32, {"rank": 16, "code": 16, "spread": 0.3})
  params = of.init(jax.random.key(0))
  dense = of.transformer.initialize(jax.random.key(1))
  experts = of.experts(params, None)["layers"]["mlp"]
  for name in ("gate", "up", "down"):
    kernels = experts[name]["kernel"]  # l g i o
    variance = kernels.var(axis=(0, 2, 3)).mean() / dense["layers"]["mlp"][name]["kernel"].var()
    assert 0.9 < float(variance) < 1.3
    apart = jnp.std(kernels[:, 1:] - kernels[:, :1]) / jnp.std(kernels)
    assert 0.2 < float(apart) < 0.6


def test_a_step_of_adam_moves_a_projected_kernel_as_far_as_a_dense_one():
  """Every entry of every basis kernel moves by the learning rate: W must move by about it, too."""
  of = tiny.family("projected")
  params = of.init(jax.random.key(0))
  mixture = jax.nn.one_hot(0, of.clusters)
  weight = jax.random.normal(jax.random.key(3), (2, 32, 48))

  def loss(p):
    return (of.materialize(p, mixture)["layers"]["mlp"]["gate"]["kernel"] * weight).sum()

  grads = jax.grad(loss)(params)
  moved = jax.tree.map(lambda p, g: p - 1e-3 * jnp.sign(g), params, grads)
  moved["codes"], moved["layers"]["mlp"]["gate"]["mixer"] = (
    params["codes"],
    params["layers"]["mlp"]["gate"]["mixer"],
  )
  before = of.materialize(params, mixture)["layers"]["mlp"]["gate"]["kernel"]
  after = of.materialize(moved, mixture)["layers"]["mlp"]["gate"]["kernel"]
  assert 0.5e-3 < float(jnp.abs(after - before).mean()) < 1.5e-3


def test_mixture_of_one_expert_equals_dense_training():
  """Not only its logits: ten steps of training give the same parameters."""
  dense, mixture = tiny.family("dense"), tiny.family("mixture", clusters=1)
  example = tiny.batch(groups=1, rows=4, clusters=1)
  results = []
  for of in (dense, mixture):
    state, step, put = tiny.trainer(of, tiny.mesh(), example, complete=True)
    start = dense.init(jax.random.key(0))
    if of is mixture:
      start = jax.tree.map(jnp.expand_dims, start, mixture.group_axes)
    state = state._replace(params=jax.tree.map(jnp.copy, start))
    for seed in range(10):
      state, metrics = step(state, put(tiny.batch(groups=1, rows=4, clusters=1, seed=seed)))
    results.append((of.materialize(state.params, jnp.ones(1)), metrics["loss"]))
  chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


def test_mixture_experts_train_as_if_alone():
  """Each of K experts ends where a dense model does that sees its cluster's rows only."""
  of, alone = tiny.family("mixture"), tiny.family("dense")
  batches = [tiny.batch(rows=4, seed=s) for s in range(5)]
  for b in batches:
    b["mask"][:] = True
  state, step, put = tiny.trainer(of, tiny.mesh(), batches[0], complete=True)
  first = jax.tree.map(np.array, state.params)
  for b in batches:
    state, _ = step(state, put(b))
  for cluster in range(tiny.CLUSTERS):
    take = lambda leaf, at: jnp.take(jnp.asarray(leaf), cluster, axis=at)  # noqa: B023, E731
    own = [{k: v[cluster : cluster + 1] for k, v in b.items()} for b in batches]
    single, one_step, put_one = tiny.trainer(alone, tiny.mesh(), own[0])
    single = single._replace(params=jax.tree.map(take, first, of.group_axes))
    for b in own:
      single, _ = one_step(single, put_one(b))
    expert = jax.tree.map(take, state.params, of.group_axes)
    chex.assert_trees_all_close(expert, single.params, rtol=1e-4, atol=2e-5)


def test_unknown_options_are_refused_by_name():
  with pytest.raises(UserError, match="did you mean 'rank'"):
    parse(projected.Options, {"rnak": 3, "code": 4, "spread": 0.1}, "options")
  with pytest.raises(UserError, match="clusters=1"):
    make_family("dense", tiny.transformer(), 3, {})


@pytest.mark.parametrize("name", ["dense", "mixture"])
def test_a_branch_is_the_same_transformer_for_every_mixture(name):
  of = tiny.family(name)
  one = of.transformer.initialize(jax.random.key(3))
  mixture = jax.random.dirichlet(jax.random.key(4), jnp.ones(of.clusters))
  branched = of.branch(one)
  chex.assert_trees_all_equal_shapes_and_dtypes(branched, of.init(jax.random.key(0)))
  chex.assert_trees_all_close(of.materialize(branched, mixture), one, rtol=1e-6, atol=1e-7)


def test_a_family_without_branches_says_so():
  of = tiny.family("projected")
  with pytest.raises(UserError, match=r"^The projected family cannot begin from another"):
    of.branch(of.transformer.initialize(jax.random.key(0)))

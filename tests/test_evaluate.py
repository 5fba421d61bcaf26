"""Perplexity and bits per byte against sums by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from specialization import evaluate, sharding
from specialization.train.step import batch_shardings

ROWS = 8


def score(params, batches, n_bytes, mesh):
  of = tiny.transformer()
  shapes, axes = of.abstract()
  where = sharding.shardings(mesh, axes, shapes)
  where_batch = batch_shardings(mesh, 1, ROWS, tiny.LENGTH)
  with jax.set_mesh(mesh):
    run = evaluate.make_evaluator(of, mesh, where, where_batch)
    placed = [jax.device_put(batch, where_batch) for batch in batches]
    return evaluate.score(run, jax.device_put(params, where), placed, n_bytes)


@pytest.fixture(scope="module")
def params():
  return tiny.transformer().initialize(jax.random.key(0))


@pytest.fixture(scope="module")
def batches():
  return [tiny.batch(groups=1, rows=ROWS, seed=seed) for seed in range(3)]


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity(params, batches):
  found = score(jax.tree.map(np.zeros_like, params), batches, 1000, tiny.mesh())
  tokens = sum(int(batch["mask"].sum()) for batch in batches)
  assert found.tokens == tokens
  assert found.perplexity == pytest.approx(tiny.VOCAB, rel=1e-6)
  assert found.nll == pytest.approx(math.log(tiny.VOCAB), rel=1e-6)
  assert found.bits_per_byte == pytest.approx(tokens * math.log2(tiny.VOCAB) / 1000, rel=1e-6)


@pytest.mark.parametrize("sizes", [{"data": 1}, {"data": 8}, {"data": 2, "fsdp": 2, "model": 2}])
def test_score_by_hand_on_one_and_eight_devices(params, batches, sizes):
  nats = 0.0
  for batch in batches:
    tokens, mask = batch["tokens"][0], batch["mask"][0]
    logits = np.asarray(tiny.transformer().logits(params, jnp.asarray(tokens[:, :-1])), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats -= np.take_along_axis(log_p, tokens[:, 1:, None], -1)[..., 0][mask].sum()
  devices = math.prod(sizes.values())
  found = score(params, batches, 500, tiny.mesh(devices, **sizes))
  assert found.nats == pytest.approx(nats, rel=1e-5)
  assert found.perplexity == pytest.approx(math.exp(nats / found.tokens), rel=1e-5)


def test_padding_does_not_count(params, batches):
  padded = {name: array.copy() for name, array in batches[0].items()}
  padded["mask"][:, 5:] = False
  other = {name: array.copy() for name, array in padded.items()}
  other["tokens"][:, 5:] = 1
  one, two = (score(params, [batch], 1, tiny.mesh()) for batch in (padded, other))
  assert one == two
  assert one.tokens == padded["mask"].sum() < batches[0]["mask"].sum()


def test_a_diverged_model_has_a_finite_perplexity():
  assert math.isfinite(evaluate.Score(nats=1e9, tokens=10, bytes=10).perplexity)

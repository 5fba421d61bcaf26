"""A world that can be enumerated: each cluster is a Markov chain whose entropy is known.

Rows are sampled from the chains, generic text holds all clusters, the domain mostly one. What a
method can reach at best is then the cross-entropy of the exact posterior over the chains.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from specialization import losses, optim
from specialization.config import ModelConfig
from specialization.data import importance
from specialization.data.sampler import ClusterSampler, Merged
from specialization.models import Transformer, make_family
from specialization.train import state as train_state
from specialization.train import step as train_step

V, T, K = 16, 24, 4
ROWS = np.array([24_000, 18_000, 12_000, 6_000])  # of generic text, by cluster; few are seen twice
DOMAIN = np.array([0.02, 0.03, 0.05, 0.90])
MODEL = ModelConfig(32, 2, 2, 2, 64, 10_000.0, 1e-5, True)
BATCH, STEPS = 32, 800


@dataclasses.dataclass(frozen=True)
class World:
  chains: np.ndarray  # P(next | last) of each cluster, [K, V, V]
  generic: np.ndarray  # rows by cluster, [sum(ROWS), T + 1]
  test: np.ndarray  # rows of each cluster, [K, n, T + 1]

  @property
  def ranges(self):
    ends = np.cumsum(ROWS)
    return np.stack([ends - ROWS, ends], axis=1)


def draw(rng, chain, n):
  """Returns n rows of T + 1 tokens; the first says nothing."""
  rows = np.zeros((n, T + 1), np.int32)
  cumulative = np.cumsum(chain, axis=1)
  for t in range(1, T + 1):
    rows[:, t] = np.argmax(rng.random((n, 1)) < cumulative[rows[:, t - 1]], axis=1)
  return rows


@pytest.fixture(scope="module")
def world():
  rng = np.random.default_rng(0)
  chains = rng.dirichlet(np.full(V, 0.15), (K, V))
  chains = (chains + 1e-3) / (chains + 1e-3).sum(-1, keepdims=True)
  generic = np.concatenate([draw(rng, c, n) for c, n in zip(chains, ROWS, strict=True)])
  return World(chains, generic, np.stack([draw(rng, c, 300) for c in chains]))


def bayes(world, weights, rows):
  """Returns the mean nats per token of the best prediction of rows, knowing the chains."""
  steps = np.log(world.chains[:, rows[:, :-1], rows[:, 1:]])  # [K, n, T]
  logs = np.log(np.maximum(weights, 1e-12))[:, None] + steps.sum(-1)
  return float(-np.logaddexp.reduce(logs, axis=0).mean() / T)


def domain_rows(world):
  counts = np.rint(DOMAIN * 300).astype(int)
  return np.concatenate([rows[:n] for rows, n in zip(world.test, counts, strict=True)])


def train(world, family, sampler, steps, complete=False, objective=losses.next_token, teach=None):
  """Returns the family and its trained parameters."""
  transformer = Transformer(MODEL, V, tiny.COMPUTE)
  of = make_family(family, transformer, 1 if family == "dense" else K, tiny.OPTIONS[family])
  config = dataclasses.replace(
    tiny.OPTIMIZER, learning_rate=8e-3, schedule="cosine", weight_decay=0.01, warmup_share=0.05
  )
  tx, mesh = optim.make_optimizer(config, steps, of.shapes(), of.axes()), tiny.mesh()
  like = train_state.abstract(of, tx, mesh)
  groups, rows = sampler.shape
  extras = {"teacher_log_probs": V} if teach else {}
  where = train_step.batch_shardings(mesh, groups, rows, T, extras)
  step = train_step.make_step(
    of, objective, tx, mesh, like, where, complete=complete, microbatches=1
  )
  state = train_state.create(of, tx, like, jax.random.key(0))
  mask = np.ones((groups, rows, T), bool)
  for at in range(steps):
    cluster, _, index = sampler.indices(at)
    batch = {"tokens": world.generic[index], "cluster": cluster, "mask": mask}
    state, _ = step(state, batch | (teach(batch) if teach else {}))
  return of, state.params


def nll(of, params, mixture, rows):
  """Returns nats per token of the materialized transformer."""
  small, rows = of.materialize(params, jnp.asarray(mixture, jnp.float32)), jnp.asarray(rows)
  logits = jax.jit(of.transformer.logits)(small, rows[:, :-1])
  nats, count = losses.next_token(logits, rows[:, 1:], jnp.ones((len(rows), T), bool))
  return float(nats / count)


def sampler(world, distribution, groups=1):
  if groups == 1:
    return Merged(ClusterSampler(world.ranges, [(0, distribution)], BATCH, 1, 0))
  return ClusterSampler(world.ranges, [(0, distribution)], groups, BATCH // groups, 0)


@pytest.fixture(scope="module")
def trained(world):
  """The small model on generic text, on resampled text, and the mixture of independent ones."""
  uniform = np.full(K, 1 / K)
  distribution = importance.smooth(np.rint(DOMAIN * 300).astype(int), ROWS / ROWS.sum(), 1.0)
  return {
    "generic": train(world, "dense", sampler(world, ROWS / ROWS.sum()), STEPS),
    "importance": train(world, "dense", sampler(world, distribution), STEPS),
    "mixture": train(world, "mixture", sampler(world, uniform, K), STEPS, complete=True),
    "projected": train(world, "projected", sampler(world, uniform, K), STEPS),
  }


def test_the_weighted_loss_is_that_of_the_domain(world):
  """Of any model, here one that knows the domain's main chain: E_generic[w l] = E_domain[l]."""

  def losses_of(rows):
    return -np.log(world.chains[3][rows[:, :-1], rows[:, 1:]]).mean(-1)

  of_generic = losses_of(world.generic)
  weights = np.repeat(DOMAIN / (ROWS / ROWS.sum()), ROWS)
  weighted, plain = np.mean(weights * of_generic), np.mean(of_generic)
  means, deviations = zip(*((x.mean(), x.std()) for x in map(losses_of, world.test)), strict=True)
  domain = DOMAIN @ means
  error = np.sqrt(
    np.sum(DOMAIN**2 * np.square(deviations) * (1 / 300 + 1 / ROWS))  # of both sides
  )
  assert abs(weighted - domain) < 3 * error
  assert abs(plain - domain) > 10 * error

  drawn = sampler(world, DOMAIN)
  resampled = np.mean([of_generic[drawn.indices(s)[2]].mean() for s in range(200)])
  assert abs(resampled - weighted) < 3 * error


def test_the_resampled_histogram_converges_to_the_domains(world):
  drawn = sampler(world, DOMAIN)
  leaf = np.repeat(np.arange(K), ROWS)
  counts, errors = np.zeros(K), []
  for step in range(400):
    counts += np.bincount(leaf[drawn.indices(step)[2].ravel()], minlength=K)
    errors.append(np.abs(counts / counts.sum() - DOMAIN).max())
  # Systematic sampling: after n blocks the counts are off by at most 2 rows, not by sqrt(n).
  assert errors[-1] < 3 / counts.sum() * BATCH
  assert errors[-1] < errors[3] / 10


def test_importance_sampling_beats_generic_text_on_the_domain(world, trained):
  rows = domain_rows(world)
  best = bayes(world, DOMAIN, rows)
  found = {name: nll(*trained[name], np.ones(1), rows) for name in ("generic", "importance")}
  assert best < found["importance"] < 1.05 * best
  assert found["generic"] > found["importance"] + 0.02


def test_experts_beat_one_model_where_clusters_differ(world, trained):
  for cluster, rows in enumerate(world.test):
    best = bayes(world, np.eye(K)[cluster], rows)
    dense = nll(*trained["generic"], np.ones(1), rows)
    for name in ("mixture", "projected"):
      expert = nll(*trained[name], np.eye(K)[cluster], rows)
      assert best < expert < dense, (name, cluster)
      assert expert < 1.05 * best, (name, cluster)


def test_the_dense_model_comes_near_the_best_that_generic_text_allows(world, trained):
  share = ROWS / ROWS.sum()
  rows = np.concatenate([rows[: round(300 * s)] for rows, s in zip(world.test, share, strict=True)])
  best = bayes(world, share, rows)
  assert best < nll(*trained["generic"], np.ones(1), rows) < 1.05 * best


def taught(world, weight, steps):
  """Returns the loss on the domain's main chain after hearing of the chains themselves."""
  log_chains = np.log(world.chains[3]).astype(np.float32)

  def teach(batch):
    return {"teacher_log_probs": log_chains[batch["tokens"][..., :-1]]}

  def objective(*args, **said):
    return losses.distillation(*args, **said, weight=weight, temperature=1.0)

  only = sampler(world, np.eye(K)[3])
  return nll(*train(world, "dense", only, steps, False, objective, teach), [1.0], world.test[3])


def of_the_domain_alone(world, steps):
  only = sampler(world, np.eye(K)[3])
  return nll(*train(world, "dense", only, steps), [1.0], world.test[3])


def test_a_perfect_teacher_helps_and_weight_0_ignores_it(world):
  """After a few steps, when more knowledge shows."""
  plain = of_the_domain_alone(world, 50)
  assert taught(world, 0.0, 50) == pytest.approx(plain, abs=1e-5)
  assert taught(world, 1.0, 50) < plain - 0.01


def test_with_or_without_a_teacher_text_of_the_domain_leads_to_its_entropy(world):
  best = bayes(world, np.eye(K)[3], world.test[3])
  assert best < taught(world, 1.0, STEPS) < 1.05 * best
  assert best < of_the_domain_alone(world, STEPS) < 1.05 * best

"""Objectives against numpy in double precision."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specialization import losses

B, T, V = 3, 5, 11


@pytest.fixture
def example():
  rng = np.random.default_rng(0)
  return {
    "student": jnp.asarray(rng.normal(size=(B, T, V)), jnp.float32),
    "teacher": 2 * rng.normal(size=(B, T, V)).astype(np.float32),
    "targets": jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32),
    "mask": jnp.asarray(rng.random((B, T)) < 0.6),
  }


def log_softmax(x):
  x = np.asarray(x, np.float64)
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def said(teacher, temperature, q=None):
  """Returns what a batch has of the teacher: of all tokens, or of the q likeliest."""
  log_probs = log_softmax(teacher / temperature)
  if q is None:
    return {"teacher_log_probs": jnp.asarray(log_probs, jnp.float32)}
  ids = np.argsort(-log_probs)[..., :q]
  top = np.take_along_axis(log_probs, ids, -1)
  return {
    "teacher_log_probs": jnp.asarray(top, jnp.float32),
    "teacher_ids": jnp.asarray(ids, jnp.int32),
  }


def distilled(e, weight, temperature, q=None, student=None):
  return losses.distillation(
    e["student"] if student is None else student,
    e["targets"],
    e["mask"],
    **said(e["teacher"], temperature, q),
    weight=weight,
    temperature=temperature,
  )


def by_hand(e, weight, temperature):
  ce = -np.take_along_axis(log_softmax(e["student"]), np.asarray(e["targets"])[..., None], -1)[
    ..., 0
  ]
  p, q = log_softmax(e["teacher"] / temperature), log_softmax(e["student"] / temperature)
  kl = (np.exp(p) * (p - q)).sum(-1)
  return ((1 - weight) * ce + weight * temperature**2 * kl)[np.asarray(e["mask"])].sum()


def test_next_token(example):
  nats, count = losses.next_token(example["student"], example["targets"], example["mask"])
  assert float(nats) == pytest.approx(by_hand(example, 0.0, 1.0), rel=1e-5)
  assert float(count) == example["mask"].sum()


@pytest.mark.parametrize("q", [None, 4])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_with_weight_0_is_next_token(example, q, temperature):
  plain = losses.next_token(example["student"], example["targets"], example["mask"])
  assert [*map(float, distilled(example, 0.0, temperature, q))] == [*map(float, plain)]
  student = example["student"]
  gradients = [
    jax.grad(lambda x: distilled(example, 0.0, temperature, q, student=x)[0])(student),
    jax.grad(lambda x: losses.next_token(x, example["targets"], example["mask"])[0])(student),
  ]
  np.testing.assert_allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize("weight", [0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_by_hand(example, weight, temperature):
  expected = by_hand(example, weight, temperature)
  assert float(distilled(example, weight, temperature)[0]) == pytest.approx(expected, rel=1e-5)
  # With all but one token named, the rest is that token.
  one_left = float(distilled(example, weight, temperature, V - 1)[0])
  assert one_left == pytest.approx(expected, rel=1e-4)


def test_fewer_named_tokens_give_a_lower_bound(example):
  bounds = [float(distilled(example, 1.0, 1.0, q)[0]) for q in (1, 3, 6, V - 1)]
  assert bounds == sorted(bounds)
  assert 0 < bounds[0] < 0.9 * bounds[-1]


@pytest.mark.parametrize("q", [None, 3])
def test_a_student_that_agrees_has_no_gradient(example, q):
  def loss(student):
    return distilled(example, 1.0, 2.0, q, student=student)[0]

  gradient = jax.grad(loss)(jnp.asarray(example["teacher"]))
  np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_a_certain_teacher_gives_finite_gradients(example):
  example["teacher"] = 1000 * example["teacher"]
  for q in (2, 6):
    gradient = jax.grad(lambda x, q=q: distilled(example, 1.0, 1.0, q, student=x)[0])(
      example["student"]
    )
    assert np.isfinite(gradient).all()


def test_accelerators_select_what_a_cpu_takes(example):
  """The same values and gradients."""

  def of(chosen):
    weighted = lambda logits: (chosen(logits, example["targets"]) ** 2).sum()  # noqa: E731
    return jax.value_and_grad(weighted)(example["student"])

  chex.assert_trees_all_equal(of(losses._select), of(losses._take))

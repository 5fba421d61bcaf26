"""Objectives. Each returns a sum over tokens and their count; the division happens elsewhere."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def next_token(
  logits: Float[Array, "*b t v"], targets: Int[Array, "*b t"], mask: Bool[Array, "*b t"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns the sum of -log p(target) in nats over tokens where mask is True, and their count."""
  # Of a take the gradient is a scatter, which accelerators do in passes of their own.
  chosen = jax.lax.platform_dependent(logits, targets, cpu=_take, default=_select)
  nats = jax.nn.logsumexp(logits, axis=-1) - chosen
  return jnp.sum(jnp.where(mask, nats, 0.0)), jnp.sum(mask, dtype=jnp.float32)


def _take(logits: Float[Array, "*b t v"], targets: Int[Array, "*b t"]) -> Float[Array, "*b t"]:
  return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def _select(logits: Float[Array, "*b t v"], targets: Int[Array, "*b t"]) -> Float[Array, "*b t"]:
  is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
  return jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)


def distillation(
  logits: Float[Array, "*b t v"],
  targets: Int[Array, "*b t"],
  mask: Bool[Array, "*b t"],
  teacher_log_probs: Float[Array, "*b t q"],
  teacher_ids: Int[Array, "*b t q"] | None = None,
  *,
  weight: float,
  temperature: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns the sum of (1 - weight) CE + weight temperature^2 KL(teacher, student), and the count.

  Both softmaxes of the KL are taken at the temperature (arXiv 2402.01093; arXiv 1503.02531). It
  is over the vocabulary or, where the teacher names q tokens, over these and any other as one more
  outcome: a lower bound.

  Args:
    logits: the student's.
    targets, mask: as for `next_token`.
    teacher_log_probs: log probabilities at the temperature, of the named tokens or of all.
    teacher_ids: the named tokens, different from each other; None: all, in order.
    weight: lambda, in [0, 1].
    temperature: tau, above 0.
  """
  student, teacher = jax.nn.log_softmax(logits / temperature), teacher_log_probs.astype(jnp.float32)
  if teacher_ids is not None:
    student = jnp.take_along_axis(student, teacher_ids, axis=-1)
  kl = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
  if teacher_ids is not None:
    kl = kl + jnp.exp(_log_rest(teacher)) * (_log_rest(teacher) - _log_rest(student))
  nats, count = next_token(logits, targets, mask)
  taught = jnp.sum(jnp.where(mask, kl, 0.0))
  return (1 - weight) * nats + weight * temperature**2 * taught, count


def _log_rest(log_probs: Float[Array, "*b t q"]) -> Float[Array, "*b t"]:
  """Returns the log of what is left of 1, kept where rounding leaves nothing from -infinity."""
  return jnp.log(jnp.maximum(1 - jnp.sum(jnp.exp(log_probs), axis=-1), 1e-6))

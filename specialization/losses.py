"""Objectives. Each returns a sum over tokens and their count; the division happens elsewhere."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def next_token(
  logits: Float[Array, "*b t v"], targets: Int[Array, "*b t"], mask: Bool[Array, "*b t"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns the sum of -log p(target) in nats over tokens where mask is True, and their count."""
  chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  nats = jax.nn.logsumexp(logits, axis=-1) - chosen
  return jnp.sum(jnp.where(mask, nats, 0.0)), jnp.sum(mask, dtype=jnp.float32)

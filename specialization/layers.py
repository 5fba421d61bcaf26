"""Layers of the transformer; each parameter is declared with its logical axes.

Activations are [b, t, ...], or [g, b, t, ...] where rows are in groups: then any parameter may have
one entry for each group, on an axis before its own.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from specialization import attention
from specialization.cache import Cache
from specialization.config import ComputeConfig, ModelConfig
from specialization.sharding import BATCH, LogicalAxes, constrain, on_many_devices

Initializer = Callable[..., Array]

PRODUCT = "product"  # name of what remat=dots keeps


def scaled_normal(fan_in: int) -> Initializer:
  """Normal with variance 1 / fan_in, which keeps the scale of activations."""
  return nn.initializers.normal(fan_in**-0.5)


def parameter(
  module: nn.Module, name: str, initializer: Initializer, shape: tuple[int, ...], axes: LogicalAxes
) -> Array:
  """Declares a float32 parameter with its logical axes; returns its plain array.

  A given parameter may have a first axis more than the declared ones: one entry for each group.
  """
  if module.has_variable("params", name) and not module.is_initializing():
    given: Array = module.get_variable("params", name)
    if given.shape[given.ndim - len(shape) :] != shape or given.ndim > len(shape) + 1:
      raise ValueError(f"{'/'.join(module.path)}/{name} is {given.shape}, not {shape} or [g, ...].")
    return given
  boxed: Any = nn.with_logical_partitioning(initializer, axes)
  return module.param(name, boxed, shape, jnp.float32)


def product(
  x: Float[Array, "*b t i"], kernel: Float[Array, "i o"] | Float[Array, "g i o"]
) -> Float[Array, "*b t o"]:
  """x @ kernel, with a kernel for all rows or for each of the groups on x's first axis."""
  if on_many_devices():
    made = jnp.einsum("g...i,gio->g...o", x, kernel) if kernel.ndim == 3 else x @ kernel
  else:
    # A CPU multiplies matrices twice as fast as tensors of more axes.
    flat = x.reshape(*x.shape[: kernel.ndim - 2], -1, x.shape[-1])
    made = (flat @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])
  return checkpoint_name(made, PRODUCT)


class Linear(nn.Module):
  """y = x @ kernel, without bias."""

  features: int
  axes: tuple[str, str]
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "*b t i"]) -> Float[Array, "*b t o"]:
    shape = (x.shape[-1], self.features)
    kernel = parameter(self, "kernel", scaled_normal(x.shape[-1]), shape, self.axes)
    return product(x, kernel.astype(self.dtype))


class RMSNorm(nn.Module):
  """x / sqrt(mean(x^2) + epsilon) * scale, computed in float32."""

  epsilon: float

  @nn.compact
  def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t d"]:
    scale = parameter(self, "scale", nn.initializers.ones, (x.shape[-1],), ("norm",))
    scale = scale.reshape(*scale.shape[:-1], *[1] * (x.ndim - scale.ndim), scale.shape[-1])
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
    return (wide * inverse * scale).astype(x.dtype)


def slowed(half: int, theta: float, scaling: tuple[float, ...]) -> Float[np.ndarray, "{half}"]:
  """Returns what is left of each rotary frequency under `ModelConfig.rope_scaling`.

  Of waves longer than the original length over low_freq_factor one over factor, of those shorter
  than it over high_freq_factor all, and in between a mean of both (Llama 3.1, arXiv 2407.21783;
  "llama3" in transformers).
  """
  if not scaling:
    return np.ones(half)
  factor, low, high, length = scaling
  waves = length * theta ** (-np.arange(half) / half) / (2 * np.pi)  # in the original length
  kept = np.clip((waves - low) / (high - low), 0, 1)
  return kept + (1 - kept) / factor


def rotate(
  x: Float[Array, "*n t k"],
  theta: float,
  positions: Int[Array, "b t"] | None = None,
  scaling: tuple[float, ...] = (),
) -> Float[Array, "*n t k"]:
  """Rotary position embedding (arXiv 2104.09864), halves convention, as in Llama on HF.

  Args:
    x: heads of queries or keys.
    theta: base of the frequencies.
    positions: of each row's tokens, for x of [b, h, t, k]; None: from 0 on in all.
    scaling: of the frequencies, as in `slowed`.
  """
  half = x.shape[-1] // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if scaling:
    frequency *= slowed(half, theta, scaling).astype(np.float32)
  at = jnp.arange(x.shape[-2]) if positions is None else positions[:, None]
  angle = at.astype(jnp.float32)[..., None] * frequency
  cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
  first, second = x[..., :half], x[..., half:]
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Attention(nn.Module):
  """Grouped-query causal self-attention with rotary positions."""

  config: ModelConfig
  compute: ComputeConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "*b t d"], cache: Cache | None, layer: Int[Array, ""] | None
  ) -> tuple[Float[Array, "*b t d"], Cache | None]:
    """With a cache, of which this is a layer, rows go on from what is in it."""
    c, dtype = self.config, x.dtype
    positions = cache.positions(x.shape[-2]) if cache is not None else None

    def heads(name: str, count: int) -> Float[Array, "*b n t k"]:
      y = Linear(count * c.head_dim, ("embed", "heads"), dtype, name=name)(x)
      y = constrain(y, *BATCH, "length", "heads")
      return y.reshape(*y.shape[:-1], count, c.head_dim).swapaxes(-3, -2)

    query = rotate(heads("query", c.n_heads), c.rope_theta, positions, c.rope_scaling)
    key = rotate(heads("key", c.n_kv_heads), c.rope_theta, positions, c.rope_scaling)
    value = heads("value", c.n_kv_heads)
    if cache is not None:
      assert layer is not None
      cache = cache.written(layer, key, value)
      mixed = cache.attend(layer, query)
    else:
      if c.n_kv_heads != c.n_heads:
        key, value = (jnp.repeat(y, c.n_heads // c.n_kv_heads, axis=-3) for y in (key, value))
      mixed = attention.attend(query, key, value, self.compute)
    mixed = mixed.swapaxes(-3, -2).reshape(x.shape)
    mixed = constrain(mixed, *BATCH, "length", "heads")
    return Linear(x.shape[-1], ("heads", "embed"), dtype, name="output")(mixed), cache


class MLP(nn.Module):
  """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t d"]:
    f, dtype = self.config.d_mlp, x.dtype
    gate = Linear(f, ("embed", "mlp"), dtype, name="gate")(x)
    up = Linear(f, ("embed", "mlp"), dtype, name="up")(x)
    hidden = constrain(jax.nn.silu(gate) * up, *BATCH, "length", "mlp")
    return Linear(x.shape[-1], ("mlp", "embed"), dtype, name="down")(hidden)


class Embedding(nn.Module):
  """A table of one vector per token; `attend` uses it as the output layer."""

  vocab_size: int
  features: int
  dtype: Any

  def setup(self) -> None:
    shape, axes = (self.vocab_size, self.features), ("vocab", "embed")
    self.table = parameter(self, "table", scaled_normal(self.features), shape, axes)

  def __call__(self, tokens: Int[Array, "*b t"]) -> Float[Array, "*b t d"]:
    # Looked up in a table that is cut along features, these would have to move to rows of tokens.
    table = constrain(self.table.astype(self.dtype), "group", "vocab", "features")
    return table[tokens] if table.ndim == 2 else jax.vmap(jnp.take, (0, 0, None))(table, tokens, 0)

  def attend(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t v"]:
    return product(x, self.table.astype(self.dtype).swapaxes(-1, -2))

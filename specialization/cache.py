"""The cache of keys and values with which a transformer goes on from what it has read.

Rows are padded on their left, so that they all end at the same slot; s is the number of slots.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from specialization.config import ModelConfig

Size = Any  # an int, or a symbol of jax.export


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """What all layers have seen of some rows.

  Attributes:
    key, value: of all layers; slots from `end` on are free.
    start: first slot of each row that is not padding.
    end: first free slot.
  """

  key: Float[Array, "l b n s k"]
  value: Float[Array, "l b n s k"]
  start: Int[Array, "b"]
  end: Int[Array, ""]

  @classmethod
  def empty(cls, config: ModelConfig, start: Int[Array, "b"], slots: int, dtype: Any) -> "Cache":
    shape = (config.n_layers, len(start), config.n_kv_heads, slots, config.head_dim)
    return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), start, jnp.zeros((), jnp.int32))

  @property
  def slots(self) -> int:
    return self.key.shape[-2]

  def grown(self, slots: int) -> "Cache":
    """Returns it with so many slots in all."""
    more = [(0, 0)] * 3 + [(0, slots - self.slots), (0, 0)]
    key, value = jnp.pad(self.key, more), jnp.pad(self.value, more)
    return dataclasses.replace(self, key=key, value=value)

  def positions(self, t: Size) -> Int[Array, "b _"]:
    """Returns where in their rows the next t tokens stand."""
    return self.end + jnp.arange(t) - self.start[:, None]

  def written(
    self, layer: Int[Array, ""], key: Float[Array, "b n t k"], value: Float[Array, "b n t k"]
  ) -> "Cache":
    """Returns it with a layer's keys and values of the next tokens; `end` stays as it is."""
    at = (layer, 0, 0, self.end, 0)
    return dataclasses.replace(
      self,
      key=jax.lax.dynamic_update_slice(self.key, key[None], at),
      value=jax.lax.dynamic_update_slice(self.value, value[None], at),
    )

  def attend(
    self, layer: Int[Array, ""], query: Float[Array, "b h t k"]
  ) -> Float[Array, "b h t k"]:
    """Returns attention.reference of the tokens that were written last over all before them.

    Heads of queries that share a key head are rows of one product.
    """
    key, value = (
      jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in (self.key, self.value)
    )
    b, n, s, k = key.shape
    t = query.shape[-2]
    slots, at = jnp.arange(s), self.end + jnp.arange(t)
    visible = (slots >= self.start[:, None, None]) & (slots <= at[:, None])  # [b, t, s]
    query = query.reshape(b, n, -1, t, k) * k**-0.5
    scores = jnp.einsum("bnrtk,bnsk->bnrts", query, key).astype(jnp.float32)
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, -1e30))
    mixed = jnp.einsum("bnrts,bnsk->bnrtk", weights.astype(value.dtype), value)
    return mixed.reshape(b, -1, t, k)

  def after(self, t: Size) -> "Cache":
    """Returns it when all layers have written t tokens."""
    return dataclasses.replace(self, end=self.end + t)

"""The one transformer that every method ends in: a strict subset of HF's LlamaForCausalLM."""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from specialization import attention
from specialization.cache import Cache
from specialization.config import ComputeConfig, ModelConfig
from specialization.layers import MLP, PRODUCT, Attention, Embedding, Linear, RMSNorm
from specialization.sharding import BATCH, constrain

Params = dict


class Block(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x))."""

  config: ModelConfig
  compute: ComputeConfig

  @nn.compact
  def __call__(
    self, carried: tuple[Float[Array, "*b t d"], Cache | None], layer: Int[Array, ""] | None
  ) -> tuple[tuple[Float[Array, "*b t d"], Cache | None], None]:
    c, (x, cache) = self.config, carried
    x = constrain(x, *BATCH, "length", "features")
    y = RMSNorm(c.norm_epsilon, name="attention_norm")(x)
    y, cache = Attention(c, self.compute, name="attention")(y, cache, layer)
    x = x + y
    x = constrain(x, *BATCH, "length", "features")
    y = RMSNorm(c.norm_epsilon, name="mlp_norm")(x)
    x = x + MLP(c, name="mlp")(y)
    return (x, cache), None


_REMAT = {
  "none": None,
  "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT, attention.SAVED),
  "full": jax.checkpoint_policies.nothing_saveable,
}


class Transformer(nn.Module):
  """tokens -> logits, in float32; layers are stacked on a first axis and scanned.

  With a cache rows go on from what is in it, and there are logits of the last token alone.
  """

  config: ModelConfig
  vocab_size: int
  compute: ComputeConfig

  @nn.compact
  def __call__(
    self, tokens: Int[Array, "*b t"], cache: Cache | None = None
  ) -> tuple[Float[Array, "*b _ v"], Cache | None]:
    c, dtype = self.config, jnp.dtype(self.compute.dtype)
    embedding = Embedding(self.vocab_size, c.d_model, dtype, name="embedding")
    x = embedding(tokens)
    block = Block
    if self.compute.remat != "none":
      block = nn.remat(Block, prevent_cse=False, policy=_REMAT[self.compute.remat])
    layers = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=c.n_layers,
      unroll=min(self.compute.scan_unroll, c.n_layers),
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    indices = jnp.arange(c.n_layers) if cache is not None else None
    (x, cache), _ = layers(c, self.compute, name="layers")((x, cache), indices)
    if cache is not None:
      x, cache = x[..., -1:, :], cache.after(x.shape[-2])
    x = RMSNorm(c.norm_epsilon, name="final_norm")(constrain(x, *BATCH, "length", "features"))
    if c.tie_embeddings:
      logits = embedding.attend(x)
    else:
      logits = Linear(self.vocab_size, ("embed", "vocab"), dtype, name="head")(x)
    return constrain(logits, *BATCH, "length", "vocab").astype(jnp.float32), cache

  def abstract(self) -> tuple[Params, dict]:
    """Returns the parameters' shapes and their logical axes, as two trees of plain dicts."""
    boxed = jax.eval_shape(
      lambda key: self.init(key, jnp.zeros((1, 2), jnp.int32))["params"], jax.random.key(0)
    )
    is_box = lambda leaf: isinstance(leaf, nn.Partitioned)  # noqa: E731
    axes: dict = jax.tree.map(lambda box: box.names, boxed, is_leaf=is_box)
    return nn.unbox(boxed), axes

  def initialize(self, key: Array) -> Params:
    """Returns freshly drawn parameters as nested plain dicts."""
    return nn.unbox(self.init(key, jnp.zeros((1, 2), jnp.int32))["params"])

  def logits(self, params: Params, tokens: Int[Array, "*b t"]) -> Float[Array, "*b t v"]:
    """Returns the logits of each next token.

    Args:
      params: of one transformer; or of one for each group, stacked on an axis before a parameter's
        own (and after the layers'), where only some may be stacked and the others are shared.
      tokens: [b, t], or [g, b, t] in groups.
    """
    logits, _ = cast(Any, self.apply({"params": params}, tokens))
    return logits

  def extend(
    self, params: Params, tokens: Int[Array, "b t"], cache: Cache
  ) -> tuple[Float[Array, "b v"], Cache]:
    """Returns the logits of what comes after these tokens, and the cache with them.

    Args:
      params: of one transformer.
      tokens: the next ones of each row.
      cache: of what came before, with room for them.
    """
    logits, cache = cast(Any, self.apply({"params": params}, tokens, cache))
    return logits[:, -1], cache

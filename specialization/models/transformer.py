"""The one transformer that every method ends in: a strict subset of HF's LlamaForCausalLM."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from specialization import attention
from specialization.config import ComputeConfig, ModelConfig
from specialization.layers import MLP, PRODUCT, Attention, Embedding, Linear, RMSNorm
from specialization.sharding import BATCH, constrain

Params = dict


class Block(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x))."""

  config: ModelConfig
  compute: ComputeConfig

  @nn.compact
  def __call__(self, x: Float[Array, "*b t d"], _: None) -> tuple[Float[Array, "*b t d"], None]:
    c = self.config
    x = constrain(x, *BATCH, "length", "features")
    y = RMSNorm(c.norm_epsilon, name="attention_norm")(x)
    x = x + Attention(c, self.compute, name="attention")(y)
    x = constrain(x, *BATCH, "length", "features")
    y = RMSNorm(c.norm_epsilon, name="mlp_norm")(x)
    x = x + MLP(c, name="mlp")(y)
    return x, None


_REMAT = {
  "none": None,
  "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT, attention.SAVED),
  "full": jax.checkpoint_policies.nothing_saveable,
}


class Transformer(nn.Module):
  """tokens -> logits, in float32; layers are stacked on a first axis and scanned."""

  config: ModelConfig
  vocab_size: int
  compute: ComputeConfig

  @nn.compact
  def __call__(self, tokens: Int[Array, "*b t"]) -> Float[Array, "*b t v"]:
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
    x, _ = layers(c, self.compute, name="layers")(x, None)
    x = RMSNorm(c.norm_epsilon, name="final_norm")(constrain(x, *BATCH, "length", "features"))
    if c.tie_embeddings:
      logits = embedding.attend(x)
    else:
      logits = Linear(self.vocab_size, ("embed", "vocab"), dtype, name="head")(x)
    return constrain(logits, *BATCH, "length", "vocab").astype(jnp.float32)

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
    logits: Any = self.apply({"params": params}, tokens)
    return logits

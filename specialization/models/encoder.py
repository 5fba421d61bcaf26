"""BERT as Sentence-BERT uses it (arXiv 1810.04805, 1908.10084): tokens -> a unit vector per text.

A pure function in float32 of weights that others trained. Dimensions beside those of sharding.py:
n heads of all texts (b h), s positions that are looked at.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from specialization.errors import UserError
from specialization.models.transformer import Params

_HIGHEST = jax.lax.Precision.HIGHEST  # TF32 and bfloat16 would move documents between clusters


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """What shapes a BERT, by the names that its config.json uses."""

  vocab_size: int
  type_vocab_size: int
  max_position_embeddings: int
  hidden_size: int
  num_hidden_layers: int
  num_attention_heads: int
  intermediate_size: int
  layer_norm_eps: float

  @classmethod
  def parse(cls, found: Mapping[str, Any]) -> "EncoderConfig":
    """Takes the fields out of a config.json.

    Raises:
      UserError: it lacks one, or describes something other than a BERT encoder.
    """
    for name, known in _ARCHITECTURE.items():
      if found.get(name) not in known:
        raise UserError(
          f"The encoder is not a BERT (its config.json has {name}={found.get(name)!r} instead of"
          f" {known[-1]!r}): choose another clusters.encoder, such as all-MiniLM-L6-v2."
        )
    names = [field.name for field in dataclasses.fields(cls)]
    if missing := [name for name in names if name not in found]:
      raise UserError(
        f"The encoder's config.json has no field {missing[0]}: choose a clusters.encoder that"
        " Hugging Face's BertModel loads."
      )
    return cls(**{name: found[name] for name in names})

  def flops(self, length: int) -> int:
    """Returns the model FLOPs (see budgets.py) of a text of so many tokens."""
    d, f = self.hidden_size, self.intermediate_size
    layer = 2 * (4 * d * d + 2 * d * f) + 4 * length * d
    return self.num_hidden_layers * length * layer


_ARCHITECTURE: dict[str, tuple[Any, ...]] = {  # None: not written, since it is the default
  "model_type": ("bert",),
  "hidden_act": (None, "gelu"),
  "position_embedding_type": (None, "absolute"),
  "is_decoder": (None, False),
}


def _dense(features: int, name: str) -> nn.Dense:
  return nn.Dense(features, precision=_HIGHEST, name=name)


def _norm(config: EncoderConfig, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(config.layer_norm_eps, use_fast_variance=False, name=name)


def _gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """x Phi(x), exactly; jax.nn.gelu takes erfc for it, which takes a CPU 2.6 times as long."""
  return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


class Layer(nn.Module):
  """norm(x + attention(x)), then norm(x + mlp(x)); rows of x are the positions of all texts."""

  config: EncoderConfig

  @nn.compact
  def __call__(self, x: Float[Array, "bt d"], bias: Float[Array, "n 1 s"]) -> Float[Array, "bt d"]:
    c = self.config
    (n, _, t), d, h = bias.shape, c.hidden_size, c.num_attention_heads
    heads = _dense(3 * d, "heads")(x).reshape(n // h, t, 3, h, d // h)
    query, key, value = heads.transpose(2, 0, 3, 1, 4).reshape(3, n, t, d // h)
    scores = jnp.einsum("ntk,nsk->nts", query * (d // h) ** -0.5, key, precision=_HIGHEST)
    weights = jax.nn.softmax(scores + bias)
    mixed = jnp.einsum("nts,nsk->ntk", weights, value, precision=_HIGHEST)
    mixed = mixed.reshape(n // h, h, t, d // h).swapaxes(1, 2).reshape(x.shape)
    x = _norm(c, "attention_norm")(x + _dense(d, "output")(mixed))
    hidden = _gelu(_dense(c.intermediate_size, "up")(x))
    return _norm(c, "mlp_norm")(x + _dense(d, "down")(hidden))


class Encoder(nn.Module):
  """Tokens of texts, padded to one length -> the last layer's states."""

  config: EncoderConfig

  @nn.compact
  def __call__(
    self, tokens: Int[Array, "b t"], visible: Bool[Array, "b t"]
  ) -> Float[Array, "b t d"]:
    c, normal = self.config, nn.initializers.normal(0.02)
    (b, t), d = tokens.shape, c.hidden_size
    words = self.param("words", normal, (c.vocab_size, d))
    positions = self.param("positions", normal, (c.max_position_embeddings, d))
    x = _norm(c, "norm")(words[tokens] + positions[:t]).reshape(b * t, d)
    # Added to the scores: a CPU selects among them more slowly than it adds.
    bias = jnp.repeat(jnp.where(visible, 0.0, -1e30), c.num_attention_heads, axis=0)[:, None]
    for i in range(c.num_hidden_layers):
      x = Layer(c, name=f"layer_{i}")(x, bias)
    return x.reshape(b, t, d)

  def embed(
    self, params: Params, tokens: Int[Array, "b t"], lengths: Int[Array, "b"]
  ) -> Float[Array, "b d"]:
    """Returns the mean of the states of each text's first tokens, scaled to length 1."""
    visible = jnp.arange(tokens.shape[1]) < lengths[:, None]
    states: Any = self.apply({"params": params}, tokens, visible)
    # A sum, since its divisor has no part in the direction.
    total = jnp.sum(jnp.where(visible[..., None], states, 0.0), axis=1)
    return total / jnp.linalg.norm(total, axis=1, keepdims=True)


def from_bert(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> Params:
  """Returns the parameters from tensors that are named as in Hugging Face's BertModel.

  Raises:
    UserError: one is missing, or has another shape than the config says.
  """
  d, f = config.hidden_size, config.intermediate_size

  def take(name: str, *shape: int) -> np.ndarray:
    if name not in tensors:
      raise UserError(
        f"The encoder's weights have no tensor {name}: choose a clusters.encoder that was saved as"
        " a BertModel."
      )
    if tensors[name].shape != shape:
      raise UserError(
        f"The encoder's tensor {name} has the shape {tensors[name].shape}, but its config.json says"
        f" {shape}: take both from one model."
      )
    return tensors[name].astype(np.float32)

  def dense(name: str, inputs: int, outputs: int) -> Params:
    kernel = take(f"{name}.weight", outputs, inputs).T
    return {"kernel": kernel, "bias": take(f"{name}.bias", outputs)}

  def norm(name: str) -> Params:
    return {"scale": take(f"{name}.weight", d), "bias": take(f"{name}.bias", d)}

  def layer(name: str) -> Params:
    heads = [dense(f"{name}.attention.self.{part}", d, d) for part in ("query", "key", "value")]
    return {
      "heads": jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1), *heads),
      "output": dense(f"{name}.attention.output.dense", d, d),
      "attention_norm": norm(f"{name}.attention.output.LayerNorm"),
      "up": dense(f"{name}.intermediate.dense", d, f),
      "down": dense(f"{name}.output.dense", f, d),
      "mlp_norm": norm(f"{name}.output.LayerNorm"),
    }

  # A text is one segment, so the first type's vector is added at every position.
  types = take("embeddings.token_type_embeddings.weight", config.type_vocab_size, d)
  positions = take("embeddings.position_embeddings.weight", config.max_position_embeddings, d)
  return {
    "words": take("embeddings.word_embeddings.weight", config.vocab_size, d),
    "positions": positions + types[0],
    "norm": norm("embeddings.LayerNorm"),
    **{f"layer_{i}": layer(f"encoder.layer.{i}") for i in range(config.num_hidden_layers)},
  }

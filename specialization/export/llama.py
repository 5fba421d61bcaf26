"""The names and layouts that Hugging Face's LlamaForCausalLM has for the parameters, both ways."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from specialization.config import ModelConfig
from specialization.errors import UserError

Path = tuple[str, ...]
_WHOLE: dict[Path, str] = {
  ("embedding", "table"): "model.embed_tokens.weight",
  ("final_norm", "scale"): "model.norm.weight",
  ("head", "kernel"): "lm_head.weight",
}
_LAYERS: dict[Path, str] = {
  ("layers", "attention_norm", "scale"): "input_layernorm.weight",
  ("layers", "attention", "query", "kernel"): "self_attn.q_proj.weight",
  ("layers", "attention", "key", "kernel"): "self_attn.k_proj.weight",
  ("layers", "attention", "value", "kernel"): "self_attn.v_proj.weight",
  ("layers", "attention", "output", "kernel"): "self_attn.o_proj.weight",
  ("layers", "mlp_norm", "scale"): "post_attention_layernorm.weight",
  ("layers", "mlp", "gate", "kernel"): "mlp.gate_proj.weight",
  ("layers", "mlp", "up", "kernel"): "mlp.up_proj.weight",
  ("layers", "mlp", "down", "kernel"): "mlp.down_proj.weight",
}


def _whole(config: ModelConfig) -> dict[Path, str]:
  return {p: name for p, name in _WHOLE.items() if p[0] != "head" or not config.tie_embeddings}


def names(config: ModelConfig) -> dict[Path, list[str]]:
  """Returns the tensors that make up each parameter: one, or one of each layer."""
  numbers = range(config.n_layers)
  layers = {path: [f"model.layers.{i}.{name}" for i in numbers] for path, name in _LAYERS.items()}
  return {path: [name] for path, name in _whole(config).items()} | layers


def tensors(
  config: ModelConfig, leaf: Callable[[Path], np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields names and tensors; kernels are [out, in] there.

  Args:
    config: of the transformer.
    leaf: gives a parameter, with those of all layers stacked. Asked for one after the other, so
      that no more than one need be in memory.
  """
  for path, found in names(config).items():
    array = leaf(path)
    for name, part in zip(found, array if path in _LAYERS else [array], strict=True):
      yield name, np.ascontiguousarray(_turned(path, part))


def _turned(path: Path, array: Any) -> Any:
  return array.T if path[-1] == "kernel" else array


def parameters(
  config: ModelConfig, read: Callable[[str], Any], stack: Callable[[list], Any] = np.stack
) -> dict:
  """Returns the transformer's parameters from tensors by their names.

  Args:
    config: of the transformer.
    read: gives a tensor.
    stack: those of all layers.
  """
  made: dict = {}
  for path, found in names(config).items():
    parts = [_turned(path, read(name)) for name in found]
    tree = made
    for key in path[:-1]:
      tree = tree.setdefault(key, {})
    tree[path[-1]] = stack(parts) if path in _LAYERS else parts[0]
  return made


def part(
  config: ModelConfig,
  path: Path,
  index: tuple[slice, ...],
  read: Callable[[str, tuple[slice, ...]], np.ndarray],
) -> np.ndarray:
  """Returns a part of a parameter.

  Args:
    config: of the transformer.
    path: of the parameter.
    index: of the part.
    read: gives a part of a tensor.
  """
  within = index[1:] if path in _LAYERS else index
  there = tuple(reversed(within)) if path[-1] == "kernel" else within
  if path not in _LAYERS:
    return _turned(path, read(names(config)[path][0], there))
  return np.stack([_turned(path, read(name, there)) for name in names(config)[path][index[0]]])


def shapes(config: ModelConfig, vocab_size: int) -> dict[str, tuple[int, ...]]:
  """Returns the shape of each tensor."""
  d, f, k = config.d_model, config.d_mlp, config.head_dim
  layer = {
    "input_layernorm": (d,),
    "self_attn.q_proj": (config.n_heads * k, d),
    "self_attn.k_proj": (config.n_kv_heads * k, d),
    "self_attn.v_proj": (config.n_kv_heads * k, d),
    "self_attn.o_proj": (d, config.n_heads * k),
    "post_attention_layernorm": (d,),
    "mlp.gate_proj": (f, d),
    "mlp.up_proj": (f, d),
    "mlp.down_proj": (d, f),
  }
  found: dict[str, tuple[int, ...]] = dict.fromkeys(_whole(config).values(), (vocab_size, d))
  found["model.norm.weight"] = (d,)
  for i in range(config.n_layers):
    found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
  return found


def to_json(
  config: ModelConfig, vocab_size: int, length: int, begin: int, end: int, dtype: str
) -> dict:
  """Returns the fields of a config.json.

  Args:
    config: of the transformer.
    vocab_size: entries.
    length: positions that it was trained on.
    begin, end: ids of what comes before and after each text.
    dtype: of the tensors.
  """
  return {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": vocab_size,
    "hidden_size": config.d_model,
    "intermediate_size": config.d_mlp,
    "num_hidden_layers": config.n_layers,
    "num_attention_heads": config.n_heads,
    "num_key_value_heads": config.n_kv_heads,
    "head_dim": config.head_dim,
    "hidden_act": "silu",
    "max_position_embeddings": length,
    "rms_norm_eps": config.norm_epsilon,
    "rope_theta": config.rope_theta,
    "rope_scaling": _scaling(config),
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": config.tie_embeddings,
    "bos_token_id": begin,
    "eos_token_id": end,
    "pad_token_id": end,
    "dtype": dtype,
    "torch_dtype": dtype,
  }


_SCALED = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def _scaling(config: ModelConfig) -> dict[str, Any] | None:
  if not config.rope_scaling:
    return None
  *factors, length = config.rope_scaling
  return {"rope_type": "llama3"} | dict(zip(_SCALED, [*factors, int(length)], strict=True))


_KNOWN: dict[str, tuple[Any, ...]] = {  # None: not written, since it is the default
  "model_type": ("llama",),
  "hidden_act": (None, "silu"),
  "attention_bias": (None, False),
  "mlp_bias": (None, False),
  "quantization_config": (None,),
  "quantization": (None,),
}


def from_json(found: Mapping[str, Any], where: str) -> tuple[ModelConfig, int, int]:
  """Returns transformer, vocabulary and length of a config.json.

  Raises:
    UserError: it lacks a field, or describes what is no plain Llama.
  """
  for name, known in _KNOWN.items():
    if found.get(name) not in known:
      raise UserError(
        f"{where} is not a plain Llama (its config.json has {name}={found.get(name)!r} instead of"
        f" {known[-1]!r}): choose a model of transformers' LlamaForCausalLM."
      )
  rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
  rope = rope if isinstance(rope, dict) else {"rope_type": rope}
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind not in ("default", "llama3"):
    raise UserError(
      f"{where} scales its rotary positions in a way that is unknown here ({kind}): choose a Llama"
      " with rope_type llama3 or without rope_scaling."
    )
  scaling: list[Any] = [rope.get(name) for name in _SCALED] if kind == "llama3" else []
  names = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
  )
  if missing := [name for name in names if name not in found]:
    raise UserError(f"{where}/config.json has no field {missing[0]}: is it a Llama's?")
  d, f, layers, heads, vocab_size, length, epsilon = (found[name] for name in names)
  kv_heads = found.get("num_key_value_heads") or heads
  theta = rope.get("rope_theta", found.get("rope_theta", 10_000.0))
  sizes = (d, f, layers, heads, kv_heads, vocab_size, length)
  scales = (theta, epsilon, *scaling)
  if any(type(n) is not int for n in sizes) or not all(
    type(n) in (int, float) and 0 < n < math.inf for n in (*sizes, *scales)
  ):
    raise UserError(f"{where}/config.json has sizes that are no numbers above 0: copy it anew.")
  if (size := found.get("head_dim")) not in (None, d // heads):
    raise UserError(
      f"{where} has heads of {size} features, not {d} / {heads}: choose a Llama whose heads make up"
      " its width."
    )
  tied = bool(found.get("tie_word_embeddings"))
  scaled = tuple(map(float, scaling))
  config = ModelConfig(d, layers, heads, kv_heads, f, float(theta), float(epsilon), tied, scaled)
  return config, int(vocab_size), int(length)

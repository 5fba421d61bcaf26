"""Causal softmax attention, and its fused kernels for TPUs and NVIDIA GPUs."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from specialization import sharding
from specialization.config import ComputeConfig, ModelConfig
from specialization.errors import UserError

SAVED = "attention"  # name of what a kernel computes for its own gradient
_PLATFORMS = {"splash": ("tpu", "TPUs"), "cudnn": ("gpu", "NVIDIA GPUs")}
_LANES = 128  # the kernels for TPUs take whole registers of keys
_BLOCK = 512  # positions that such a kernel has at once, at most


def reference(
  query: Float[Array, "*n t k"],
  key: Float[Array, "*n s k"],
  value: Float[Array, "*n s k"],
) -> Float[Array, "*n t k"]:
  """softmax(q k^T / sqrt(k)) v; the last query sees all keys. Softmax in float32."""
  t, s = query.shape[-2], key.shape[-2]
  scores = jnp.einsum("...tk,...sk->...ts", query * query.shape[-1] ** -0.5, key)
  visible = jnp.arange(s) <= jnp.arange(s - t, s)[:, None]
  scores = jnp.where(visible, scores.astype(jnp.float32), -1e30)
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - top)
  mixed = jnp.einsum("...ts,...sk->...tk", weights.astype(value.dtype), value)
  return (mixed / jnp.sum(weights, axis=-1, keepdims=True)).astype(value.dtype)


def blocked(
  query: Float[Array, "*n t k"],
  key: Float[Array, "*n t k"],
  value: Float[Array, "*n t k"],
  block: int,
) -> Float[Array, "*n t k"]:
  """The same, in blocks of queries that do not look at the keys after them."""
  ends = range(block, query.shape[-2] + 1, block)
  return jnp.concatenate(
    [
      reference(query[..., end - block : end, :], key[..., :end, :], value[..., :end, :])
      for end in ends
    ],
    axis=-2,
  )


def splash(
  query: Float[Array, "b h t k"], key: Float[Array, "b h t k"], value: Float[Array, "b h t k"]
) -> Float[Array, "b h t k"]:
  """The same, by JAX's kernel for TPUs, which leaves out blocks of which all is masked."""
  from jax.experimental.pallas.ops.tpu import splash_attention as kernels

  heads, t = query.shape[-3:-1]
  block = math.gcd(t, _BLOCK)
  sides = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
  blocks: dict[str, Any] = {f"block_{side}": block for side in sides}
  attend = kernels.make_splash_mha_single_device(
    kernels.MultiHeadMask([kernels.CausalMask((t, t))] * heads),
    block_sizes=kernels.BlockSizes(**blocks),
    residual_checkpoint_name=SAVED,
  )
  attended: Array = jax.vmap(attend)(query * query.shape[-1] ** -0.5, key, value)
  return attended


def cudnn(
  query: Float[Array, "b h t k"], key: Float[Array, "b h t k"], value: Float[Array, "b h t k"]
) -> Float[Array, "b h t k"]:
  """The same, by cuDNN's kernel for NVIDIA GPUs."""
  query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
  mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True, implementation="cudnn")
  return mixed.swapaxes(1, 2)


def attend(
  query: Float[Array, "*b h t k"],
  key: Float[Array, "*b h t k"],
  value: Float[Array, "*b h t k"],
  compute: ComputeConfig,
) -> Float[Array, "*b h t k"]:
  """Returns `reference` of it, in the way that the config names."""
  shape, t = query.shape, query.shape[-2]
  kernels: dict[str, Callable[..., Array]] = {"splash": splash, "cudnn": cudnn}
  if compute.attention in kernels and t % _LANES == 0:
    return _on_each_device(kernels[compute.attention], query, key, value)
  if not sharding.on_many_devices():  # See `product`.
    query, key, value = (y.reshape(-1, *y.shape[-2:]) for y in (query, key, value))
  if compute.attention == "blocked" and t % compute.attention_block == 0:
    return blocked(query, key, value, compute.attention_block).reshape(shape)
  return reference(query, key, value).reshape(shape)


def _on_each_device(kernel: Callable[..., Array], *given: Array) -> Array:
  """Returns a kernel's result on [g, b, h, t, k] or [b, h, t, k], each device's part by itself."""

  def flat(*parts: Array) -> Array:
    return kernel(*(x.reshape(-1, *x.shape[-3:]) for x in parts)).reshape(parts[0].shape)

  if not sharding.on_many_devices():
    return flat(*given)
  where: Any = sharding.spec((*sharding.BATCH, "heads", "length", None)[-given[0].ndim :])
  # A kernel does not say over which axes its result varies.
  mapped = jax.shard_map(flat, in_specs=(where,) * 3, out_specs=where, check_vma=False)
  return mapped(*given)


def check(
  compute: ComputeConfig, model: ModelConfig, length: int, platform: str, parts: int = 1
) -> None:
  """Looks whether a kernel can do what is asked.

  Args:
    compute, model: of a transformer.
    length: of its rows.
    platform: of the devices, as JAX calls it.
    parts: into which the mesh cuts the heads.

  Raises:
    UserError: it cannot.
  """
  if amiss := _amiss(compute, model, length, platform, parts):
    raise UserError(f"compute.attention={compute.attention} {amiss}: choose reference or blocked.")


def kernel_for(
  compute: ComputeConfig, model: ModelConfig, length: int, platform: str, parts: int = 1
) -> str:
  """Returns the kernel that a platform has for what is asked, as for `check`; "": none."""
  for name, (wanted, _) in _PLATFORMS.items():
    way = dataclasses.replace(compute, attention=name)
    if platform == wanted and not _amiss(way, model, length, platform, parts):
      return name
  return ""


def _amiss(
  compute: ComputeConfig, model: ModelConfig, length: int, platform: str, parts: int
) -> str:
  """Returns why a kernel cannot do what is asked, "" if it can."""
  if compute.attention not in _PLATFORMS:
    return ""
  wanted, name = _PLATFORMS[compute.attention]
  if platform != wanted:
    return f"needs {name}, and here is a {platform}"
  if length % _LANES:
    return f"needs rows of a multiple of {_LANES} tokens, and sequence_length={length}"
  if model.n_heads % parts:
    return f"needs whole heads on each device, and mesh.model={parts} cuts {model.n_heads} of them"
  if compute.attention == "cudnn" and compute.dtype != "bfloat16":
    return f"needs compute.dtype=bfloat16, which is {compute.dtype}"
  if compute.attention == "cudnn" and (model.head_dim % 8 or model.head_dim > 128):
    return f"needs heads of a multiple of 8 features up to 128, and they have {model.head_dim}"
  return ""

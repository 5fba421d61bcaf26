"""StableHLO: functions that JAX calls without this project, and weights beside them.

All take tensors by name and tokens, of any number of rows and tokens:

    model.stablehlo   tensors, i32[b, t] -> logits f32[b, t, v]
    extend.stablehlo  tensors, cache, i32[b, t] -> logits of what comes after f32[b, v], cache

A cache is a dict of key and value f32[l, b, n, s, k], start i32[b] and end i32[] (see `cache`): of
zeros where nothing was read yet, with slots for all that will be.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from specialization import sharding
from specialization.cache import Cache
from specialization.config import PLAIN, ModelConfig
from specialization.export import hf, llama
from specialization.export.package import Format, Package, Reader

MODEL, EXTEND = "model.stablehlo", "extend.stablehlo"
_PLATFORMS = ("cpu", "cuda", "tpu")


def write(package: Package, folder: Path, dtype: str) -> None:
  """Writes both functions, and what `hf` writes."""
  config, plain = package.config, dataclasses.replace(package.transformer, compute=PLAIN)

  def parameters(tensors: dict[str, jax.Array]) -> Any:
    wide = {name: tensor.astype(jnp.float32) for name, tensor in tensors.items()}
    return llama.parameters(config, wide.__getitem__, jnp.stack)

  def model(tensors: dict[str, jax.Array], tokens: jax.Array) -> Any:
    return plain.logits(parameters(tensors), tokens)

  def extend(tensors: dict[str, jax.Array], cache: dict[str, jax.Array], tokens: jax.Array) -> Any:
    logits, extended = plain.extend(parameters(tensors), tokens, Cache(**cache))
    return logits, dict(vars(extended))

  of = jax.ShapeDtypeStruct
  b, t, s = export.symbolic_shape("b, t, s", constraints=["s >= t"])
  kept = of((config.n_layers, b, config.n_kv_heads, s, config.head_dim), jnp.float32)
  cache = {"key": kept, "value": kept, "start": of((b,), jnp.int32), "end": of((), jnp.int32)}
  shapes = llama.shapes(config, package.vocab_size).items()
  tensors = {name: of(shape, dtype) for name, shape in shapes}
  alone = of(export.symbolic_shape("b, t"), jnp.int32)
  with jax.set_mesh(sharding.on_the_host()):
    for file, function, given in (
      (MODEL, model, (tensors, alone)),
      (EXTEND, extend, (tensors, cache, of((b, t), jnp.int32))),
    ):
      made = export.export(jax.jit(function), platforms=_PLATFORMS)(*given)
      (folder / file).write_bytes(made.serialize())
  hf.write(package, folder, dtype)


def weights(folder: Path, config: ModelConfig) -> dict:
  """Returns the parameters that are beside the functions."""
  return hf.weights(folder, config)


def read(folder: Path) -> Reader:
  """Opens the functions that were written."""
  model, extend = (
    export.deserialize(bytearray((folder / file).read_bytes())) for file in (MODEL, EXTEND)
  )
  (_, like, _), _ = jax.tree.unflatten(extend.in_tree, extend.in_avals)
  call, (layers, _, heads, _, width) = jax.jit(model.call), like["key"].shape
  with hf.opened(folder) as (names, read), jax.set_mesh(sharding.on_the_host()):
    tensors = {name: jnp.asarray(read(name)) for name in names}

  @functools.partial(jax.jit, static_argnums=2)
  def go_on(tensors: dict[str, jax.Array], tokens: jax.Array, n: int) -> jax.Array:
    b, t = tokens.shape
    kept = jnp.zeros((layers, b, heads, t + n, width))
    start, end = jnp.zeros(b, jnp.int32), jnp.zeros((), jnp.int32)
    cache = {"key": kept, "value": kept, "start": start, "end": end}

    def step(carried: tuple, _: None) -> tuple[tuple, jax.Array]:
      logits, cache = extend.call(tensors, *carried)
      ids = jnp.argmax(logits, -1).astype(jnp.int32)
      return (cache, ids[:, None]), ids

    first, ids = step((cache, tokens), None)
    return jnp.concatenate([ids[None], jax.lax.scan(step, first, None, n - 1)[1]]).T

  def logits(tokens: np.ndarray) -> np.ndarray:
    with jax.set_mesh(sharding.on_the_host()):
      return np.asarray(call(tensors, jnp.asarray(tokens, jnp.int32)))

  def generate(tokens: np.ndarray, n: int) -> np.ndarray:
    with jax.set_mesh(sharding.on_the_host()):
      return np.asarray(go_on(tensors, jnp.asarray(tokens, jnp.int32), n))

  return Reader(logits, generate)


FORMAT = Format(("float32", "bfloat16"), write, weights, read, "jax")

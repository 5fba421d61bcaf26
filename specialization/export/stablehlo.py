"""StableHLO: logits as a function that JAX calls without this project, and weights beside it."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from specialization import sharding
from specialization.config import PLAIN, ModelConfig
from specialization.export import hf, llama
from specialization.export.package import Format, Package, Reader

FILE = "model.stablehlo"
_PLATFORMS = ("cpu", "cuda", "tpu")


def write(package: Package, folder: Path, dtype: str) -> None:
  """Writes model.stablehlo, which takes tensors by name and tokens i32[b, t] of any b and t."""
  plain = dataclasses.replace(package.transformer, compute=PLAIN)

  def logits(tensors: dict[str, jax.Array], tokens: jax.Array) -> Any:
    wide = {name: tensor.astype(jnp.float32) for name, tensor in tensors.items()}
    return plain.logits(llama.parameters(package.config, wide.__getitem__, jnp.stack), tokens)

  shapes = {
    name: jax.ShapeDtypeStruct(shape, dtype)
    for name, shape in llama.shapes(package.config, package.vocab_size).items()
  }
  tokens = jax.ShapeDtypeStruct(export.symbolic_shape("b, t"), jnp.int32)
  with jax.set_mesh(sharding.on_the_host()):
    made = export.export(jax.jit(logits), platforms=_PLATFORMS)(shapes, tokens)
  (folder / FILE).write_bytes(made.serialize())
  hf.write(package, folder, dtype)


def weights(folder: Path, config: ModelConfig) -> dict:
  """Returns the parameters that are beside the function."""
  return hf.weights(folder, config)


def read(folder: Path) -> Reader:
  """Opens the function that was written."""
  call = jax.jit(export.deserialize(bytearray((folder / FILE).read_bytes())).call)
  with hf.opened(folder) as (names, read), jax.set_mesh(sharding.on_the_host()):
    tensors = {name: jnp.asarray(read(name)) for name in names}

  def logits(tokens: np.ndarray) -> np.ndarray:
    with jax.set_mesh(sharding.on_the_host()):
      return np.asarray(call(tensors, jnp.asarray(tokens, jnp.int32)))

  return Reader(logits)


FORMAT = Format(("float32", "bfloat16"), write, weights, read, "jax")

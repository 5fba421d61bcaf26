"""MLX: what mlx_lm loads on Apple's machines; unquantized it is what Hugging Face's files are."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from specialization.config import ModelConfig
from specialization.errors import UserError
from specialization.export import hf
from specialization.export.package import Format, Package, Reader, narrowed

_BITS = {"q8": 8, "q4": 4}
_GROUP = 64  # numbers that share a scale


def write(package: Package, folder: Path, dtype: str) -> None:
  """Writes a folder for `mlx_lm.load`.

  Raises:
    UserError: a width does not divide into groups of the quantization.
  """
  bits, plain = _BITS.get(dtype), "float16" if dtype in _BITS else dtype
  found = ((name, narrowed(array, plain)) for name, array in package.tensors())
  if bits:
    _check(package, dtype)
    found = (part for name, array in found for part in _quantized(name, array, bits))
  hf.write_tensors(found, folder, {"format": "mlx"})
  hf.write_beside(package, folder, plain)
  if bits:
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | {"quantization": {"group_size": _GROUP, "bits": bits}}
    path.write_text(json.dumps(fields, indent=2) + "\n")


def _check(package: Package, dtype: str) -> None:
  for field in ("d_model", "d_mlp"):
    if (width := vars(package.config)[field]) % _GROUP:
      raise UserError(
        f"{package.name} has {field}={width}, and {dtype} takes numbers in groups of {_GROUP}:"
        " train a size whose widths are multiples of that, or export float16."
      )


def _quantized(name: str, array: np.ndarray, bits: int) -> Iterator[tuple[str, np.ndarray]]:
  import mlx.core as mx

  if array.ndim != 2:
    yield name, array
    return
  made = mx.quantize(mx.array(array), group_size=_GROUP, bits=bits)
  for kind, part in zip(("weight", "scales", "biases"), made, strict=True):
    yield name.replace("weight", kind), np.array(part)


def weights(folder: Path, config: ModelConfig) -> dict:
  """Returns the parameters that are in the files."""
  import mlx.core as mx

  told = json.loads((folder / "config.json").read_text())
  bits = told["quantization"]["bits"] if "quantization" in told else 0

  def dequantized(name: str, read: hf.Read) -> np.ndarray:
    found = read(name)
    if not bits or found.ndim != 2:
      return found
    scales, biases = (
      mx.array(read(name.replace("weight", kind)).astype(np.float32))
      for kind in ("scales", "biases")
    )
    return np.array(mx.dequantize(mx.array(found), scales, biases, group_size=_GROUP, bits=bits))

  return hf.weights(folder, config, dequantized)


def read(folder: Path) -> Reader:
  """Opens a folder by mlx_lm."""
  import mlx.core as mx
  from mlx_lm.models.cache import make_prompt_cache
  from mlx_lm.utils import load_model, load_tokenizer

  model, _ = load_model(folder)
  tokenizer = load_tokenizer(folder)
  model.set_dtype(mx.float32)  # A CPU computes with 16 bits as slowly as by hand.

  def logits(tokens: np.ndarray) -> np.ndarray:
    return np.array(model(mx.array(tokens)).astype(mx.float32))

  def generate(tokens: np.ndarray, n: int) -> np.ndarray:
    cache, ids, rows = make_prompt_cache(model), mx.array(tokens), []
    for _ in range(n):
      ids = mx.argmax(model(ids, cache=cache)[:, -1:], axis=-1)
      mx.async_eval(ids)
      rows.append(ids)
    return np.array(mx.concatenate(rows, axis=1))

  return Reader(logits, generate, lambda text: list(tokenizer.encode(text)))


FORMAT = Format(("float32", "bfloat16", "float16", *_BITS), write, weights, read, "mlx-lm")

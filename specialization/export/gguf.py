"""GGUF: one file with tokenizer, as llama.cpp and what is built on it read it."""

import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from specialization import layers
from specialization.config import ModelConfig
from specialization.errors import UserError
from specialization.export import gguf_tokenizer, llama
from specialization.export.package import Format, Package, Reader

FILE = "model.gguf"
# Type of kernels, type of the embedding, name of the file's type. A tied embedding is also the
# output layer, which with 4 bits would lose the most.
_TYPES = {
  "f32": ("F32", "F32", "ALL_F32"),
  "f16": ("F16", "F16", "MOSTLY_F16"),
  "bf16": ("BF16", "BF16", "MOSTLY_BF16"),
  "q8_0": ("Q8_0", "Q8_0", "MOSTLY_Q8_0"),
  "q4_0": ("Q4_0", "Q8_0", "MOSTLY_Q4_0"),
  "q4_1": ("Q4_1", "Q8_0", "MOSTLY_Q4_1"),
}


def write(package: Package, folder: Path, dtype: str) -> None:
  """Writes model.gguf.

  Raises:
    UserError: a width does not divide into blocks of the quantization, or llama.cpp would find
      other tokens than the tokenizer does.
  """
  import gguf

  c = package.config
  kernels, embedding, file = _TYPES[dtype]
  block = max(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[t]][0] for t in (kernels, embedding))
  for field in ("d_model", "d_mlp"):
    if (width := vars(c)[field]) % block:
      raise UserError(
        f"{package.name} has {field}={width}, and {dtype} takes numbers in blocks of {block}: train"
        f" a size whose widths are multiples of {block}, or export f16."
      )
  writer = gguf.GGUFWriter(folder / FILE, "llama", use_temp_file=True)
  writer.add_name(package.name)
  writer.add_description(package.description)
  writer.add_file_type(gguf.LlamaFileType[file])
  writer.add_vocab_size(package.vocab_size)
  writer.add_context_length(package.length)
  writer.add_embedding_length(c.d_model)
  writer.add_block_count(c.n_layers)
  writer.add_feed_forward_length(c.d_mlp)
  writer.add_head_count(c.n_heads)
  writer.add_head_count_kv(c.n_kv_heads)
  writer.add_rope_dimension_count(c.head_dim)
  writer.add_rope_freq_base(c.rope_theta)
  writer.add_layer_norm_rms_eps(c.norm_epsilon)
  gguf_tokenizer.add(writer, package)
  if c.rope_scaling:  # By what llama.cpp divides each frequency.
    kept = layers.slowed(c.head_dim // 2, c.rope_theta, c.rope_scaling)
    writer.add_tensor("rope_freqs.weight", (1 / kept).astype(np.float32))
  rename = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.n_layers).get_name
  for name, array in package.tensors():
    type_name = embedding if name in ("model.embed_tokens.weight", "lm_head.weight") else kernels
    kind = gguf.GGMLQuantizationType[type_name if array.ndim == 2 else "F32"]
    data = gguf.quantize(_turned(name, array, c, _paired), kind)
    writer.add_tensor(str(rename(name, (".weight",))), data, raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def _turned(
  name: str, array: np.ndarray, config: ModelConfig, turn: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
  heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}
  return next((turn(array, n) for kind, n in heads.items() if kind in name), array)


def _paired(array: np.ndarray, heads: int) -> np.ndarray:
  """llama.cpp rotates features 2i and 2i + 1 of a head, and we i and i + k / 2."""
  halves = array.reshape(heads, 2, -1, array.shape[-1])
  return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def _halved(array: np.ndarray, heads: int) -> np.ndarray:
  pairs = array.reshape(heads, -1, 2, array.shape[-1])
  return pairs.swapaxes(1, 2).reshape(array.shape)


def weights(folder: Path, config: ModelConfig) -> dict:
  """Returns the parameters that are in the file, by the package `gguf`."""
  import gguf

  found = {tensor.name: tensor for tensor in gguf.GGUFReader(folder / FILE).tensors}
  rename = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.n_layers).get_name

  def read(name: str) -> np.ndarray:
    tensor = found[str(rename(name, (".weight",)))]
    array = gguf.dequantize(tensor.data, tensor.tensor_type)
    return _turned(name, array, config, _halved)

  return llama.parameters(config, read)


def read(folder: Path) -> Reader:
  """Opens a file by llama.cpp, with all cores."""
  import llama_cpp

  cores = os.cpu_count() or 1

  @functools.cache
  def opened(logits_all: bool) -> Any:
    return llama_cpp.Llama(
      str(folder / FILE),
      n_ctx=0,  # as long as the file says
      n_batch=4096,
      n_threads=cores,
      n_threads_batch=cores,
      logits_all=logits_all,
      verbose=False,
    )

  def logits(tokens: np.ndarray) -> np.ndarray:
    rows, model = [], opened(True)
    for row in tokens.tolist():
      model.reset()
      model.eval(row)
      rows.append(model.scores[: len(row)].copy())
    return np.stack(rows)

  def generate(tokens: np.ndarray, n: int) -> np.ndarray:
    model, (ids,) = opened(False), tokens.tolist()
    model.reset()  # or it would know a prompt that it has read before
    likeliest = model.generate(ids, temp=0.0, repeat_penalty=1.0)
    return np.array([list(itertools.islice(likeliest, n))])

  def encode(text: str) -> list[int]:
    found: list[int] = opened(True).tokenize(text.encode(), add_bos=True, special=False)
    return found

  return Reader(logits, generate, encode, rows=1)


FORMAT = Format(tuple(_TYPES), write, weights, read, "llama-cpp-python", 2e-2)

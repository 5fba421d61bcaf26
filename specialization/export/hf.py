"""Hugging Face: safetensors, config.json and tokenizer, as transformers and vLLM read them."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from specialization.config import ModelConfig
from specialization.data.tokenizer import Tokenizer
from specialization.errors import UserError
from specialization.export import llama
from specialization.export.package import Format, Package, Reader, narrowed

Read = Callable[..., np.ndarray]
_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = 2 * 10**9  # bytes of a file of tensors, and so of what is in memory


def write(package: Package, folder: Path, dtype: str) -> None:
  """Writes a folder for `from_pretrained`."""
  found = ((name, narrowed(array, dtype)) for name, array in package.tensors())
  write_tensors(found, folder, {"format": "pt"})
  write_beside(package, folder, dtype)


def write_tensors(
  tensors: Iterable[tuple[str, np.ndarray]], folder: Path, metadata: dict[str, str]
) -> None:
  """Writes model.safetensors, or several files of at most `_SHARD` bytes and their index."""
  shards: list[list[str]] = []
  waiting: dict[str, np.ndarray] = {}
  total = 0

  def flush() -> None:
    path = folder / f"{len(shards)}.tmp"
    try:
      save_file(waiting, path, metadata)
    except SafetensorError as error:
      raise UserError(f"{path.parent} cannot be written to ({error}): free some room.") from error
    path.chmod(0o644)  # The library leaves it to its owner alone.
    shards.append(list(waiting))
    waiting.clear()

  for name, array in tensors:
    if waiting and sum(a.nbytes for a in waiting.values()) + array.nbytes > _SHARD:
      flush()
    waiting[name] = array
    total += array.nbytes
  flush()
  if len(shards) == 1:
    (folder / "0.tmp").rename(folder / _ONE)
    return
  where: dict[str, str] = {}
  for i, names in enumerate(shards):
    file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
    (folder / f"{i}.tmp").rename(folder / file)
    where |= dict.fromkeys(names, file)
  index = {"metadata": {"total_size": total}, "weight_map": where}
  (folder / _INDEX).write_text(json.dumps(index, indent=1))


def write_beside(package: Package, folder: Path, dtype: str) -> None:
  """Writes all that belongs to a model beside its tensors."""
  begin, end = package.begin, package.end
  config = llama.to_json(package.config, package.vocab_size, package.length, begin, end, dtype)
  generation = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end}
  tokenizer = tokenizers.Tokenizer.from_file(str(package.tokenizer))
  before, after = map(tokenizer.id_to_token, (begin, end))
  found = json.loads(tokenizer.to_str()) | {"truncation": None, "padding": None}
  # The model has seen no document without it. The library would split tokens at spaces and colons.
  first = {"SpecialToken": {"id": before, "type_id": 0}}
  a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
  found["post_processor"] = {
    "type": "TemplateProcessing",
    "single": [first, a],
    "pair": [first, a, first, b],
    "special_tokens": {before: {"id": before, "ids": [begin], "tokens": [before]}},
  }
  (folder / "tokenizer.json").write_text(json.dumps(found, indent=2))
  about = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": before,
    "eos_token": after,
    "pad_token": after,
    "model_max_length": package.length,
    "clean_up_tokenization_spaces": False,
    "split_special_tokens": True,  # a text that spells the token does not end there
  }
  for name, fields in (
    ("config", config),
    ("generation_config", generation),
    ("tokenizer_config", about),
  ):
    (folder / f"{name}.json").write_text(json.dumps(fields, indent=2) + "\n")


def weights(
  folder: Path, config: ModelConfig, through: Callable[[str, Read], np.ndarray] | None = None
) -> dict:
  """Returns the parameters that are in a folder's files, float32.

  Args:
    folder: of model.safetensors, or of several files and their index.
    config: of the transformer.
    through: makes a tensor by its name from those that can be read; None: takes it.

  Raises:
    UserError: a file or tensor is missing or damaged.
  """
  with opened(folder) as (_, read):

    def wide(name: str) -> np.ndarray:
      return (through(name, read) if through else read(name)).astype(np.float32)

    return llama.parameters(config, wide)


def described(folder: Path) -> tuple[ModelConfig, int, int]:
  """Returns transformer, vocabulary and length of a folder whose tensors are those of a Llama.

  Raises:
    UserError: a file or tensor is missing, damaged or of another shape, or it is no plain Llama.
  """
  if not (folder / "config.json").is_file():
    raise UserError(
      f"{folder} has no config.json: name a folder that `export` or transformers wrote."
    )
  found = llama.from_json(_json(folder / "config.json"), str(folder))
  _check(folder, *found[:2])
  return found


def _json(path: Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text())
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise UserError(f"{path} is damaged ({error}): copy or export it anew.") from error
  if not isinstance(found, dict):
    raise UserError(f"{path} is not what belongs there: copy or export it anew.")
  return found


def _check(folder: Path, config: ModelConfig, vocab_size: int) -> None:
  with opened(folder) as (found, _):
    for name, shape in llama.shapes(config, vocab_size).items():
      if name not in found:
        raise UserError(f"{folder} has no tensor {name}: copy all files of a whole Llama.")
      if found[name] != shape:
        raise UserError(
          f"{folder} has a tensor {name} of {found[name]}, and its config.json says {shape}: take"
          " both from one model that is not quantized."
        )


def tokenizer_of(folder: Path, vocab_size: int) -> Tokenizer:
  """Returns a folder's tokenizer.

  Raises:
    UserError: there is none that serves, or it has more tokens than the model.
  """
  found = Tokenizer(folder)
  if found.vocab_size > vocab_size:
    raise UserError(
      f"{folder} has {vocab_size} tokens in config.json, but {found.vocab_size} in tokenizer.json:"
      " take both from one model, or delete from added_tokens there what the model has no embedding"
      " for."
    )
  return found


def ends(folder: Path) -> tuple[int, ...]:
  """Returns the ids at which a folder's model is said to stop.

  Raises:
    UserError: a file is damaged.
  """
  said: Any = None
  for name in ("generation_config.json", "config.json"):
    if said is None and (folder / name).is_file():
      said = _json(folder / name).get("eos_token_id")
  given = said if isinstance(said, list) else [said]
  return tuple(token for token in given if isinstance(token, int))


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[dict[str, tuple[int, ...]], Read]]:
  """Yields the shapes of a folder's tensors, and what reads one of them or, of an index, its part.

  Raises:
    UserError: a file or tensor is missing or damaged.
  """
  with contextlib.ExitStack() as stack:
    names = [_ONE]
    if (folder / _INDEX).exists():
      there = _json(folder / _INDEX).get("weight_map")
      if not isinstance(there, dict) or not all(isinstance(name, str) for name in there.values()):
        raise UserError(f"{folder / _INDEX} does not say where tensors are: copy it anew.")
      names = sorted(set(there.values()))
    files = [stack.enter_context(_open(folder / name)) for name in names]
    where = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def read(name: str, index: tuple[slice, ...] = (slice(None),)) -> np.ndarray:
      if name not in where:
        raise UserError(f"{folder} has no tensor {name}: it does not hold a whole Llama.")
      found: np.ndarray = where[name].get_slice(name)[index]
      return found

    yield {name: tuple(where[name].get_slice(name).get_shape()) for name in where}, read


def _open(path: Path) -> Any:
  try:
    return safe_open(path, "np")
  except OSError:  # The library raises no more precise one of a folder with that name.
    raise UserError(
      f"{path.parent} lacks {path.name}: name a folder that `export` or transformers wrote, with"
      " all of its files (one of pytorch_model.bin has to be saved anew by transformers)."
    ) from None
  except SafetensorError as error:
    raise UserError(f"{path} is damaged ({error}): copy or export it anew.") from error


def read(folder: Path) -> Reader:
  """Opens a folder by transformers."""
  import torch
  import transformers

  transformers.utils.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
  model.generation_config.eos_token_id = None
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

  def logits(tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
      found: np.ndarray = model(torch.tensor(tokens, dtype=torch.long)).logits.float().numpy()
    return found

  def generate(tokens: np.ndarray, n: int) -> np.ndarray:
    ids = torch.tensor(tokens, dtype=torch.long)
    seen = torch.ones_like(ids)
    found = model.generate(ids, attention_mask=seen, do_sample=False, max_new_tokens=n)
    rows: np.ndarray = found[:, ids.shape[1] :].numpy()
    return rows

  return Reader(logits, generate, lambda text: list(tokenizer(text).input_ids))


FORMAT = Format(("float32", "bfloat16", "float16"), write, weights, read, "torch and transformers")

"""Phase `import`: a folder as Hugging Face has it becomes checkpoints to begin or to teach from."""

import contextlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from specialization import artifact, sharding
from specialization.checkpoint import Checkpoints
from specialization.config import Config
from specialization.data import sources
from specialization.errors import UserError
from specialization.export import hf, llama
from specialization.models import Params, Transformer
from specialization.phases import together
from specialization.phases.build import flat_mesh, make_transformer
from specialization.strict import to_dict
from specialization.study import methods
from specialization.train.state import TrainState

_ROUNDED = 0.1  # of the rows of embeddings may be of no token, to make their number a round one


def adopt(config: Config, workdir: Path, only: str, model: str, to: str = "") -> Path:
  """Returns the folder of checkpoints that has a model's parameters, on the mesh.

  Args:
    config: of the study that is to begin from it.
    workdir: of that study.
    only: pattern of the methods that are to.
    model: folder with config.json, safetensors and tokenizer.json.
    to: where the checkpoints go; "": in `imported` of the workdir.

  Raises:
    UserError: it is no plain Llama, or not of those methods' size and the study's tokenizer.
  """
  if not model:
    raise UserError("Which model? Name the folder of a Llama with --model=FOLDER.")
  folder = Path(model).expanduser()
  found, vocab_size, length = hf.described(folder)
  if length < config.sequence_length:
    raise UserError(
      f"{folder} was trained on {length} positions: set --config.sequence_length={length}."
    )
  for name in methods(config, only):
    size = config.methods[name].size
    wanted, there = to_dict(config.sizes[size]), to_dict(found)
    if fields := [
      f"--config.sizes.{size}.{k}={_flag(there[k])}" for k in there if there[k] != wanted[k]
    ]:
      raise UserError(
        f"{folder} is not of {name}'s size: set {' '.join(fields)}, or choose --only."
      )
  tokenizer = hf.tokenizer_of(folder, vocab_size)
  lacking = vocab_size - tokenizer.vocab_size
  if lacking > _ROUNDED * vocab_size:
    raise UserError(
      f"{folder} has {vocab_size} tokens in config.json, but {tokenizer.vocab_size} in"
      " tokenizer.json: take both from one model."
    )
  if config.tokenizer.vocab_size != tokenizer.vocab_size:
    raise UserError(
      f"{folder} has {tokenizer.vocab_size} tokens in tokenizer.json: set"
      f" --config.tokenizer.vocab_size={tokenizer.vocab_size}."
    )
  transformer = make_transformer(config, config.methods[methods(config, only)[0]])
  name = "--".join(folder.resolve().parts[-2:])
  target = Path(to).expanduser() if to else workdir / "imported" / name
  files = sorted(folder.glob("*.safetensors"))
  made_from = {
    "model": found.for_hash(),
    "files": {path.name: sources.stamp(path) for path in files},
    "tokenizer": tokenizer.digest,
  }
  together.claim(target, made_from)
  with contextlib.closing(Checkpoints(target / "checkpoints")) as checkpoints:
    if checkpoints.latest() is None:
      zero = jax.device_put(np.int32(0), sharding.replicated(flat_mesh(config)))
      state = TrainState(zero, _params(folder, transformer, config), {})
      metadata = {
        "phase": "import",
        "made_from": artifact.made_from(target),
        "tokenizer": tokenizer.digest,
        "progress": {"step": 0},
      }
      checkpoints.save(0, state, metadata)
  before, after = (
    tokenizer.decode([token]) for token in (tokenizer.begin_of_document, tokenizer.end_of_document)
  )
  more = f" but those of {lacking} tokens that its tokenizer lacks" if lacking else ""
  print(
    f"import: {target / 'checkpoints'} has the parameters of {folder}{more}. Texts begin with"
    f" {before} and end with {after}. With"
    f" --config.tokenizer.file={folder / 'tokenizer.json'} a method can begin from them"
    " (pretrain.init_params) or take them as they are (with strategy='imported').",
    flush=True,
  )
  return target / "checkpoints"


def _flag(value: Any) -> str:
  return f"'({','.join(map(str, value))})'" if isinstance(value, list) else str(value)


def _params(folder: Path, transformer: Transformer, config: Config) -> Params:
  """Returns the parameters, of which each process reads the parts that its devices have."""
  shapes, axes = transformer.abstract()
  where = sharding.shardings(flat_mesh(config), axes, shapes)
  with hf.opened(folder) as (_, read):

    def make(path: Any, shape: jax.ShapeDtypeStruct, at: jax.sharding.Sharding) -> jax.Array:
      keys = tuple(key.key for key in path)

      def part(index: Any) -> np.ndarray:
        # The file may have more rows, of tokens that its tokenizer lacks.
        ranges = (at.indices(n) for at, n in zip(index, shape.shape, strict=True))
        index = tuple(slice(begin, end) for begin, end, _ in ranges)
        return llama.part(transformer.config, keys, index, read).astype(np.float32)

      return jax.make_array_from_callback(shape.shape, at, part)

    params: Params = jax.tree.map_with_path(make, shapes, where)
  return params

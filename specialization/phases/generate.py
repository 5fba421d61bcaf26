"""Phase `generate`: text from a model, of a study's cell or of a folder as Hugging Face has it.

from specialization.phases import generate
generate.load("exported/hf-float32").generate(["To undo the last commit"], tokens=50)
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from specialization.config import ComputeConfig
from specialization.data.tokenizer import Tokenizer
from specialization.errors import UserError
from specialization.export import hf, llama
from specialization.generate import Generator, Sampling
from specialization.models import Params, Transformer
from specialization.phases.specialize import Specialization

PLAIN = ComputeConfig("float32", "none", 1, "reference", 1, 1)
_UNFINISHED = "\ufffd"  # how the bytes of a character look until the last one is there
GREEDY = Sampling()


@dataclasses.dataclass(frozen=True)
class Model:
  """A small model with its tokenizer.

  Attributes:
    transformer, params: the model.
    tokenizer: its own.
    length: positions that it was trained on.
  """

  transformer: Transformer
  params: Params
  tokenizer: Tokenizer
  length: int

  def generate(
    self,
    prompts: Sequence[str],
    tokens: int = 100,
    sampling: Sampling = GREEDY,
    stop: Sequence[str] = (),
  ) -> list[str]:
    """Returns how each prompt goes on.

    Args:
      prompts: texts; each is the beginning of a document.
      tokens: of each row, at most.
      sampling: how they are drawn; the likeliest ones if it is not given.
      stop: texts before which a row ends, besides the end of the document.

    Raises:
      UserError: a prompt and so many tokens are too long for the model.
    """
    *_, texts = self.stream(prompts, tokens, sampling, stop)
    return texts

  def stream(
    self, prompts: Sequence[str], tokens: int, sampling: Sampling, stop: Sequence[str] = ()
  ) -> Iterator[list[str]]:
    """Yields how each prompt goes on, as far as it is known; arguments are those of `generate`."""
    end = self.tokenizer.end_of_document
    generator = Generator(self.transformer, self.params, end, self.length)
    encoded = [[end, *ids.tolist()] for ids in self.tokenizer.encode_batch(prompts)]
    rows: list[list[int]] = [[] for _ in prompts]
    for parts in generator.stream(encoded, tokens, sampling):
      for row, part in zip(rows, parts, strict=True):
        row += part
      texts = [self.tokenizer.decode(row) for row in rows]
      yield [_before(text, stop) for text in texts]
      if stop and all(_before(text, stop) != text for text in texts):
        return

  def logits(self, tokens: np.ndarray) -> np.ndarray:
    """Returns f32[b, t, v] of tokens i32[b, t]."""
    return np.asarray(_logits(self.transformer, self.params, jnp.asarray(tokens, jnp.int32)))

  def likeliest(self, tokens: np.ndarray, n: int) -> np.ndarray:
    """Returns the n likeliest tokens after each row, whatever ends a text."""
    generator = Generator(self.transformer, self.params, -1, self.length)
    return np.array(generator(tokens.tolist(), n, GREEDY))


@functools.partial(jax.jit, static_argnums=0)
def _logits(
  transformer: Transformer, params: Params, tokens: Int[Array, "b t"]
) -> Float[Array, "b t v"]:
  return transformer.logits(params, tokens)


def _before(text: str, stop: Sequence[str]) -> str:
  return text[: min((text.find(s) for s in stop if s in text), default=len(text))]


def load(folder: str | Path) -> Model:
  """Returns the model in a folder that `export --format=hf` or transformers wrote.

  Raises:
    UserError: it holds no plain Llama, or its tokenizer is another kind.
  """
  folder = Path(folder).expanduser()
  if not (folder / "config.json").is_file():
    raise UserError(f"{folder} has no config.json: name a folder that `export` wrote.")
  found = json.loads((folder / "config.json").read_text())
  config, vocab_size, length = llama.from_json(found, str(folder))
  hf.check(folder, config, vocab_size)
  params = jax.tree.map(jnp.asarray, hf.weights(folder, config))
  tokenizer = Tokenizer(folder)
  if tokenizer.vocab_size > vocab_size:
    raise UserError(
      f"{folder} has {vocab_size} tokens in config.json, but {tokenizer.vocab_size} in"
      " tokenizer.json: take both from one model."
    )
  return Model(Transformer(config, vocab_size, PLAIN), params, tokenizer, length)


def of_cell(cell: Specialization) -> Model:
  """Returns the model that a cell's fine-tuning made."""
  family, config = cell.pretrained.family, cell.config
  transformer = dataclasses.replace(family.transformer, compute=PLAIN)
  return Model(transformer, cell.params(), cell.data.tokenizer, config.sequence_length)


def answer_from(folder: str, **asked: Any) -> None:
  """Answers as `answer` does, with the model in a folder."""
  answer(load(folder), **asked)


def show(model: Model, prompt: str, tokens: int, sampling: Sampling, stop: Sequence[str]) -> None:
  """Prints a prompt and how it goes on, as it comes."""
  shown = ""
  for (text,) in model.stream([prompt], tokens, sampling, stop):
    known = prompt + text.rstrip(_UNFINISHED)
    sys.stdout.write(known[len(shown) :])
    sys.stdout.flush()
    shown = known
  print(flush=True)


def answer(
  model: Model,
  *,
  prompt: str,
  prompts: str,
  batch: int,
  tokens: int,
  stop: Sequence[str],
  **sampling: Any,
) -> None:
  """Prints how a prompt goes on, or a JSON line for each line of a file of them.

  Raises:
    UserError: the file cannot be read, or there is nothing to do.
  """
  if tokens < 1 or batch < 1 or bool(prompt) == bool(prompts):
    raise UserError(
      "What to go on from? Give --prompt=TEXT or --prompts=FILE, and --tokens and --batch of at"
      " least 1."
    )
  how = Sampling(**sampling)
  if prompt:
    show(model, prompt, tokens, how, stop)
    return
  try:
    lines = Path(prompts).expanduser().read_text().splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"--prompts={prompts} cannot be read ({error}): name a text file.") from error
  if not lines:
    raise UserError(f"--prompts={prompts} is empty: give it one prompt a line.")
  for first in range(0, len(lines), batch):
    some = lines[first : first + batch]
    seeded = dataclasses.replace(how, seed=how.seed + first)
    for line, text in zip(some, model.generate(some, tokens, seeded, stop), strict=True):
      print(json.dumps({"prompt": line, "text": text}, ensure_ascii=False), flush=True)

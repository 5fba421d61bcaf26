"""Phase `generate`: text from a model, of a study's cell or of a folder as Hugging Face has it.

from specialization.phases import generate
generate.load("exported/hf-float32").generate(["To undo the last commit"], tokens=50)
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from specialization import processes
from specialization.config import PLAIN
from specialization.data.tokenizer import Tokenizer
from specialization.errors import UserError
from specialization.export import hf
from specialization.generate import Generator, Sampling
from specialization.models import Params, Transformer
from specialization.phases.specialize import Specialization

_UNFINISHED = "\ufffd"  # how the bytes of a character look until the last one is there
GREEDY = Sampling()


@dataclasses.dataclass(frozen=True)
class Model:
  """A small model with its tokenizer.

  Attributes:
    transformer, params: the model.
    tokenizer: its own.
    length: positions that it was trained on.
    ends: tokens at which it stops, as it does at the end of a document.
  """

  transformer: Transformer
  params: Params
  tokenizer: Tokenizer
  length: int
  ends: tuple[int, ...] = ()

  def generate(
    self,
    prompts: Sequence[str],
    tokens: int = 100,
    sampling: Sampling = GREEDY,
    stop: Sequence[str] = (),
    seed: int = 0,
  ) -> list[str]:
    """Returns how each prompt goes on.

    Args:
      prompts: texts; each is the beginning of a document.
      tokens: of each row, at most.
      sampling: how they are drawn; the likeliest ones if it is not given.
      stop: texts before which a row ends, besides the end of the document.
      seed: of what is drawn.

    Raises:
      UserError: a prompt and so many tokens are too long for the model.
    """
    if not prompts:
      return []
    *_, texts = self.stream(prompts, tokens, sampling, stop, seed)
    return texts

  def stream(
    self,
    prompts: Sequence[str],
    tokens: int,
    sampling: Sampling,
    stop: Sequence[str] = (),
    seed: int = 0,
    first: int = 0,
  ) -> Iterator[list[str]]:
    """Yields how each prompt goes on, as far as it is known.

    Arguments are those of `generate`; `first` is the number of the first prompt, which draws
    depend on.
    """
    rows: list[list[int]] = [[] for _ in prompts]
    is_done = [False] * len(prompts)
    parts = self._generator.stream(self._encode(prompts), tokens, sampling, seed, first)
    for part in parts:
      for row, more in zip(rows, part, strict=True):
        row += more
      whole = [self._text(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
      texts = [_before(text, stop) for text in whole]
      yield texts
      most = max(map(len, part))
      for i, more in enumerate(part):
        is_done[i] |= len(more) < most or texts[i] != whole[i]
      if all(is_done):
        return

  def check(self, prompts: Sequence[str], tokens: int) -> None:
    """Raises UserError, with the number of its line, if a prompt is too long."""
    for number, ids in enumerate(self._encode(prompts), 1):
      try:
        self._generator.check(ids, tokens)
      except UserError as error:
        raise UserError(f"Line {number}: {error}") from error

  def _text(self, prompt: str, ids: Sequence[int]) -> str:
    return self.tokenizer.decode_after_text(ids) if prompt else self.tokenizer.decode(ids)

  def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
    begin = self.tokenizer.begin_of_document
    return [[begin, *ids.tolist()] for ids in self.tokenizer.encode_batch(prompts)]

  @property
  def _generator(self) -> Generator:
    ends = (self.tokenizer.end_of_document, *self.ends)
    return Generator(self.transformer, self.params, ends, self.length)

  def logits(self, tokens: np.ndarray) -> np.ndarray:
    """Returns f32[b, t, v] of tokens i32[b, t]."""
    return np.asarray(_logits(self.transformer, self.params, jnp.asarray(tokens, jnp.int32)))

  def likeliest(self, tokens: np.ndarray, n: int) -> np.ndarray:
    """Returns the n likeliest tokens after each row, whatever ends a text."""
    generator = Generator(self.transformer, self.params, (-1,), self.length)
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
    UserError: it holds no plain Llama, or does not say with what token its documents end.
  """
  folder = Path(folder).expanduser()
  config, vocab_size, length = hf.described(folder)
  tokenizer = hf.tokenizer_of(folder, vocab_size)
  params = jax.tree.map(jnp.asarray, hf.weights(folder, config))
  transformer = Transformer(config, vocab_size, PLAIN)
  return Model(transformer, params, tokenizer, length, hf.ends(folder))


def of_cell(cell: Specialization) -> Model:
  """Returns the model that a cell's fine-tuning made."""
  family, config = cell.pretrained.family, cell.config
  transformer = dataclasses.replace(family.transformer, compute=PLAIN)
  return Model(transformer, cell.params(), cell.data.tokenizer, config.sequence_length)


def answer_from(folder: str, **asked: Any) -> None:
  """Answers as `answer` does, with the model in a folder."""
  check_flags(**asked)
  answer(load(folder), **asked)


def answer(
  model: Model,
  *,
  prompt: str,
  prompts: str,
  batch: int,
  tokens: int,
  stop: Sequence[str],
  seed: int,
  **sampling: Any,
) -> None:
  """Prints how a prompt goes on, or a JSON line for each line of a file of them.

  Raises:
    UserError: the file cannot be read, or a line of it is too long.
  """
  how = Sampling(**sampling)
  if prompt:
    _show(model, prompt, tokens, how, stop, seed)
    return
  try:
    lines = Path(prompts).expanduser().read_text().removesuffix("\n").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"--prompts={prompts} cannot be read ({error}): name a text file.") from error
  model.check(lines, tokens)
  for first in range(0, len(lines), batch):
    some = lines[first : first + batch]
    *_, texts = model.stream(some, tokens, how, stop, seed, first)
    for line, text in zip(some, texts, strict=True):
      print(json.dumps({"prompt": line, "text": text}, ensure_ascii=False), flush=True)


def _show(
  model: Model, prompt: str, tokens: int, sampling: Sampling, stop: Sequence[str], seed: int
) -> None:
  """Prints a prompt and how it goes on, as it comes."""
  back, shown, text = max((len(s) - 1 for s in stop), default=0), 0, ""
  for (text,) in model.stream([prompt], tokens, sampling, stop, seed):
    # What may yet become a character, or a text at which to stop, waits.
    known = prompt + text[: max(0, len(text) - back)].rstrip(_UNFINISHED)
    print(known[shown:], end="", flush=True)
    shown = max(shown, len(known))
  print((prompt + text)[shown:], flush=True)


def check_flags(
  *,
  prompt: str,
  prompts: str,
  batch: int,
  tokens: int,
  stop: Sequence[str],
  seed: int,
  **sampling: Any,
) -> None:
  """Looks at what is asked before anything is read.

  Raises:
    UserError: it is no question, or several processes ask.
  """
  if processes.count() > 1:
    raise UserError("Text is generated by one process: run `generate` without --coordinator.")
  if tokens < 1 or batch < 1 or bool(prompt) == bool(prompts) or not all(stop):
    raise UserError(
      "What to go on from? Give --prompt=TEXT or --prompts=FILE, and --tokens and --batch of at"
      " least 1; a --stop is no empty text."
    )
  if not 0 <= seed < 1 << 32:
    raise UserError(f"--seed={seed} must be at least 0 and below {1 << 32}.")
  try:
    "".join([prompt, *stop]).encode()
  except UnicodeEncodeError:
    raise UserError("--prompt and --stop are no UTF-8: write them anew.") from None
  Sampling(**sampling)

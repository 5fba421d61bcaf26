"""What is exported, in whatever format: one transformer, its tokenizer, and what is known of it."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from specialization.config import ModelConfig
from specialization.export import llama
from specialization.models import Transformer

Logits = Callable[[np.ndarray], np.ndarray]  # i32[b, t] -> f32[b, t, v]


@dataclasses.dataclass(frozen=True)
class Reader:
  """A target's own way to run what was written.

  Attributes:
    logits: of tokens.
    generate: (i32[b, t], n) -> the n likeliest next tokens, i32[b, n], whatever ends a text;
      None: it has no way to.
    encode: the tokens of a text as it reads one, from the end of another on; None: it reads none.
    rows: that it can go on with at once, at most.
  """

  logits: Logits
  generate: Callable[[np.ndarray, int], np.ndarray] | None = None
  encode: Callable[[str], list[int]] | None = None
  rows: int = 1024


@dataclasses.dataclass(frozen=True)
class Package:
  """A small model that is to leave.

  Attributes:
    name: of the model.
    length: positions that it was trained on.
    tokenizer: its tokenizer.json.
    vocab_size: entries of that.
    begin, end: ids of what comes before and after each text; one token may be both.
    leaf: gives a parameter by its path, float32.
    transformer: what the parameters are of.
    description: a sentence.
  """

  name: str
  length: int
  tokenizer: Path
  vocab_size: int
  begin: int
  end: int
  leaf: Callable[[tuple[str, ...]], np.ndarray]
  transformer: Transformer
  description: str

  @property
  def config(self) -> ModelConfig:
    return self.transformer.config

  def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
    """Yields names and tensors as Hugging Face's Llama has them, from one parameter at a time."""
    return llama.tensors(self.config, self.leaf)


@dataclasses.dataclass(frozen=True)
class Format:
  """A kind of files that others read.

  Attributes:
    dtypes: that its numbers may have, the default first.
    write: puts the files of a package into a folder.
    weights: gives back the parameters that are in the files.
    read: opens them by the target's own reader; ImportError: that is not installed.
    reader: what has to be installed for that.
    slack: by which its logits may differ whatever the numbers: llama.cpp keeps 16 bits of some.
  """

  dtypes: tuple[str, ...]
  write: Callable[[Package, Path, str], None]
  weights: Callable[[Path, ModelConfig], dict]
  read: Callable[[Path], Reader]
  reader: str
  slack: float = 0.0


def narrowed(array: np.ndarray, dtype: str) -> np.ndarray:
  """Returns the array in a type that numpy or ml_dtypes has."""
  import ml_dtypes

  types: dict[str, Any] = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
  return array.astype(types[dtype]) if dtype in types else array

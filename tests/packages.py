"""Small models to export, with a tokenizer of their own."""

import functools
from pathlib import Path
from unittest import mock

import jax
import numpy as np

import tiny
from specialization.config import TokenizerConfig
from specialization.data import tokenizer
from specialization.data.documents import Documents
from specialization.export import Package
from specialization.models import Params, Transformer

VOCAB, LENGTH = 320, 32
TEXT = [
  "The judge's 12 pleas weren't heard; naïve \u6f22\u5b57 \U0001f642 harbors\n\n\tsailed on.",
  str.__doc__,
  dict.__doc__,
  int.__doc__,
] * 2


@functools.cache
def trained() -> str:
  """Returns a tokenizer.json."""
  texts = mock.Mock(spec=Documents)
  texts.bytes.return_value = sum(len(text.encode()) for text in TEXT)
  texts.batches.return_value = iter([TEXT])
  made: str = tokenizer._train(texts, TokenizerConfig(VOCAB, 10**6, "")).to_str()
  return made


def transformer(**changes) -> Transformer:
  """One whose widths fit the blocks of all quantizations."""
  of = tiny.transformer(**{"d_model": 64, "d_mlp": 128, **changes})
  return Transformer(of.config, VOCAB, of.compute)


def perturbed(params: Params) -> Params:
  """Norm scales start at one, where a forgotten scale would not show."""
  flat, treedef = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(7), len(flat))
  return treedef.unflatten(
    [p * (1 + 0.2 * jax.random.normal(k, p.shape)) for p, k in zip(flat, keys, strict=True)]
  )


def package(of: Transformer, params: Params, folder: Path, text: str = "") -> Package:
  """Returns it, with its tokenizer (the text of one, or one that was trained) in the folder."""
  file = folder / "tokenizer.json"
  file.write_text(text or trained())
  made = tokenizer.Tokenizer(folder)
  return Package(
    name="small",
    length=LENGTH,
    tokenizer=file,
    vocab_size=of.vocab_size,
    begin=made.begin_of_document,
    end=made.end_of_document,
    leaf=lambda path: np.asarray(functools.reduce(lambda tree, key: tree[key], path, params)),
    transformer=of,
    description="A model of nothing.",
  )


def logits(of: Transformer, params: Params, tokens: np.ndarray) -> np.ndarray:
  return np.asarray(of.logits(params, jax.numpy.asarray(tokens, "int32")))


def tokens(rows: int = 3) -> np.ndarray:
  return np.random.default_rng(0).integers(0, VOCAB, (rows, LENGTH), np.int32)

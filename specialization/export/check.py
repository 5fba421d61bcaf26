"""Whether files hold the model that was to leave, and their reader makes the same of it."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from specialization import sharding
from specialization.config import PLAIN
from specialization.data.store import Store
from specialization.data.tokenizer import Tokenizer
from specialization.errors import UserError
from specialization.export.package import Format, Logits, Package, Reader
from specialization.models import Params, Transformer

_ROWS = 64  # of held-out text on which both readers are asked for their perplexity
_COMPARED = 8  # of these, of which all logits are compared; and as many rows of random tokens
# By what is in the name of a type: by how much of a tensor's largest number another one may change.
_LOST = {"32": 0.0, "bf": 2**-8, "16": 2**-10, "8": 0.01, "4": 0.2}
_EXACT = 1e-4  # by how much logits may differ where no number changes
# Nats, mean KL of the reader's next token from ours, by the same numbers: rounding makes 2.5e-4 of
# it at most, and heads that are turned wrongly 0.3.
_APART = 5e-3
_NEAR = 0.1  # nats, by which what a reader goes on with may be behind: caches have fewer bits
_ODD = (
  "\x00  Was\n\n\u00df\u0416\u4e2d\U0001f600 don't  {} 1234567"  # with what is around documents
)


def own(transformer: Transformer, params: Params) -> Logits:
  """Returns the logits of our transformer, in float32 on this host."""
  compiled = jax.jit(dataclasses.replace(transformer, compute=PLAIN).logits)
  mesh = sharding.on_the_host()
  placed = jax.device_put(jax.device_get(params), sharding.replicated(mesh))

  def logits(tokens: np.ndarray) -> np.ndarray:
    with jax.set_mesh(mesh):
      return np.asarray(compiled(placed, jnp.asarray(tokens, jnp.int32)))

  return logits


def spread(held_out: Store, most: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns rows from all over a store, i32[n, t + 1], and their mask, bool[n, t]."""
  index = np.linspace(0, held_out.n_rows - 1, min(most, held_out.n_rows)).astype(np.int64)
  return held_out.rows(index), held_out.mask(index)


def check(
  package: Package,
  params: Params,
  files: Format,
  dtype: str,
  folder: Path,
  held_out: Store,
) -> str:
  """Compares what is in a folder with what was to be; returns what was found, in a sentence.

  Args:
    package, params: the model.
    files, dtype: how it was written.
    folder: where.
    held_out: text to compare on.

  Raises:
    UserError: it is not the same.
    ImportError: not even this project can read it here.
  """
  whole, back = jax.device_get(params), files.weights(folder, package.config)
  lost = max(jax.tree.leaves(jax.tree.map(_lost, whole, back)))
  near, ours = own(package.transformer, back), own(package.transformer, whole)
  try:
    reader, name = files.read(folder), files.reader
  except ImportError:
    reader, name = Reader(near), f"read back by this project alone, without {files.reader}"
  rows, mask = spread(held_out, _ROWS)
  odd = np.random.default_rng(0).integers(0, package.vocab_size, (_COMPARED, package.length))
  compared = np.concatenate([rows[:_COMPARED, :-1], odd]).astype(np.int32)
  difference, agree, apart = _difference(ours, near, reader.logits, compared)
  mine, theirs = (nats(logits, rows, mask) for logits in (ours, reader.logits))
  said = (
    f"{name}: logits differ by {difference:.2g} at most, {agree:.2%} have the same likeliest token,"
    f" perplexity of {int(mask.sum()):,} held-out tokens {_exp(theirs):.4f}, ours {_exp(mine):.4f}."
  )
  most = next(most for sign, most in _LOST.items() if sign in dtype)
  amiss = []
  if not lost <= most:
    amiss.append(f"parameters differ by {lost:.1%}")
  if not apart <= _APART:
    amiss.append(f"next tokens differ by {apart:.2g} nats")
  if most == 0 and not difference <= max(_EXACT, files.slack):
    amiss.append("logits differ")
  if (behind := _behind(reader, compared)) > _NEAR:
    amiss.append(f"it goes on with tokens that are {behind:.2g} nats behind its likeliest")
  if reader.encode and (text := _other_tokens(reader.encode, package, rows)):
    amiss.append(f"tokens of {text!r} differ")
  if amiss:
    raise UserError(
      f"What was written as {dtype} is not {package.name}, and was removed ({', '.join(amiss)};"
      f" {said[:-1]}): please report this with the versions of the packages."
    )
  return said


def _lost(whole: np.ndarray, back: np.ndarray) -> float:
  return float(np.abs(whole - back).max() / np.abs(whole).max())


def _difference(
  ours: Logits, near: Logits, theirs: Logits, rows: np.ndarray
) -> tuple[float, float, float]:
  """Returns the largest difference of logits, the share of same likeliest tokens, KL(near, theirs).

  One row after another: of many positions and a large vocabulary the logits take more memory than
  the model.
  """
  found = []
  for row in rows[:, None]:
    a, b, c = (logits(row).astype(np.float64) for logits in (ours, theirs, near))
    same = float(np.mean(a.argmax(-1) == b.argmax(-1)))
    found.append((float(np.abs(a - b).max()), same, _divergence(c, b)))
  differences, agree, apart = np.array(found).T
  return float(differences.max()), float(agree.mean()), float(apart.mean())


def _divergence(ours: np.ndarray, theirs: np.ndarray) -> float:
  """Returns the mean KL(ours, theirs) of next tokens, infinite if any logit is no number."""
  a, b = (x - _normal(x)[..., None] for x in (ours, theirs))
  found = float(np.mean(np.sum(np.exp(a) * (a - b), axis=-1)))
  return found if math.isfinite(found) else math.inf


def _behind(reader: Reader, rows: np.ndarray) -> float:
  """Returns how far the tokens that a reader goes on with are from its likeliest, at most."""
  if not reader.generate or rows.shape[1] < 4:
    return 0.0
  worst, half = 0.0, rows.shape[1] // 2
  for row in (rows[:1, :half], rows[-1:, :half]):
    made = reader.generate(row, 2)
    found = reader.logits(np.concatenate([row, made[:, :1]], 1))[0, -2:].astype(np.float64)
    worst = max(worst, *(found.max(-1) - found[np.arange(2), made[0]]))
  return worst


def _other_tokens(
  encode: Callable[[str], list[int]], package: Package, rows: np.ndarray
) -> str | None:
  """Returns a text of which the reader has other tokens, None if there is none."""
  tokenizer = Tokenizer(package.tokenizer.parent)
  around = (package.begin, package.end)
  parts = [row[~np.isin(row, around)] for row in rows[:_COMPARED]]
  texts = [_ODD.format(tokenizer.decode(around)), *map(tokenizer.decode, parts)]
  for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
    if encode(text) != [package.begin, *ids.tolist()]:
      return text[:40]
  return None


def nats(logits: Logits, rows: np.ndarray, mask: np.ndarray) -> float:
  """Returns the mean of -log p over targets where mask is True, row by row."""
  total = 0.0
  for row, seen in zip(rows, mask, strict=True):
    found = logits(row[None, :-1])[0].astype(np.float64)
    chosen = np.take_along_axis(found, row[1:, None], 1)[:, 0]
    total += float(np.sum((_normal(found) - chosen)[seen]))
  return total / int(mask.sum())


def _normal(logits: np.ndarray) -> np.ndarray:
  """Returns the log of the sum of exp over the last axis."""
  top = logits.max(-1)
  normal: np.ndarray = top + np.log(np.exp(logits - top[..., None]).sum(-1))
  return normal


def _exp(value: float) -> float:
  return math.exp(min(value, 700.0))

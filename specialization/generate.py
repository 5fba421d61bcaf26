"""Text from a transformer, token by token from a cache, for many prompts at once."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from specialization.cache import Cache
from specialization.errors import UserError
from specialization.models import Params, Transformer

_CHUNK = 16  # tokens between looks at what has come, and what prompts are padded to


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a token is drawn.

  Attributes:
    temperature: of the softmax; 0: the likeliest token is taken.
    top_k: of so many likeliest tokens; 0: of all.
    top_p: of the fewest likeliest of these that have so much of the probability.
  """

  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0

  def __post_init__(self) -> None:
    if not 0 <= self.temperature < math.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
      raise UserError(
        f"temperature={self.temperature:g}, top_k={self.top_k} and top_p={self.top_p:g} must be"
        " finite and at least 0, at least 0, and above 0 but at most 1."
      )


def draw(logits: Float[Array, "b v"], keys: Key[Array, "b"], sampling: Sampling) -> Int[Array, "b"]:
  """Returns a token for each row."""
  if sampling.temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  logits = logits / sampling.temperature
  if 0 < sampling.top_k < logits.shape[-1]:
    least = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if sampling.top_p < 1:
    ordered = jnp.sort(logits, axis=-1, descending=True)
    share = jax.nn.softmax(ordered)
    kept = jnp.cumsum(share, axis=-1) - share < sampling.top_p
    least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


class Generator:
  """Goes on from prompts with one transformer's parameters."""

  def __init__(self, transformer: Transformer, params: Params, ends: tuple[int, ...], length: int):
    """Compiles nothing yet.

    Args:
      transformer, params: a model.
      ends: tokens of which each ends a row; one at least.
      length: positions that it was trained on.
    """
    self._transformer, self._params, self._ends, self._length = transformer, params, ends, length

  def check(self, prompt: Sequence[int], most: int) -> None:
    """Looks whether a prompt and so many tokens are within what the model was trained on.

    Raises:
      UserError: they are not.
    """
    room = self._length - len(prompt)
    if most > room:
      cure = f", or ask for {room} tokens" if room > 0 else ""
      raise UserError(
        f"A prompt of {len(prompt)} tokens and {most} more are beyond the {self._length} positions"
        f" that the model was trained on: shorten the prompt{cure}."
      )

  def stream(
    self,
    prompts: Sequence[Sequence[int]],
    most: int,
    sampling: Sampling,
    seed: int = 0,
    first: int = 0,
  ) -> Iterator[list[list[int]]]:
    """Yields the next few tokens of each row, until all have ended.

    Args:
      prompts: tokens, at least one each.
      most: tokens of a row, at least one; the token that ends it is not among them.
      sampling: how they are drawn.
      seed: of the draws.
      first: number of the first row; a row's draws depend on its number and on no other row.

    Raises:
      UserError: a prompt and so many tokens are longer than what the model was trained on.
    """
    for prompt in prompts:
      self.check(prompt, most)
    width = -(-max(map(len, prompts)) // _CHUNK) * _CHUNK
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
      row[width - len(prompt) :] = prompt
    start = np.array([width - len(prompt) for prompt in prompts], np.int32)
    how = (self._transformer, sampling)
    key = jax.random.key(seed)
    ids, cache, keys = _read(*how, self._params, tokens, start, key, np.int32(first))
    done = np.isin(np.asarray(ids), self._ends)
    yield [_until([token], self._ends) for token in np.asarray(ids).tolist()]
    for made in range(1, most, _CHUNK):
      if np.asarray(done).all():
        return
      if width + made - 1 + _CHUNK > cache.slots:  # Doubled, so that few sizes are compiled.
        cache = _grown(cache, max(64, 2 * cache.slots))
      parts, ids, cache, done = _write(*how, self._ends, self._params, ids, cache, done, keys)
      yield [_until(row[: most - made], self._ends) for row in np.asarray(parts).tolist()]

  def __call__(
    self, prompts: Sequence[Sequence[int]], most: int, sampling: Sampling, seed: int = 0
  ) -> list[list[int]]:
    """Returns all that `stream` yields of each row."""
    rows: list[list[int]] = [[] for _ in prompts]
    for parts in self.stream(prompts, most, sampling, seed):
      for row, part in zip(rows, parts, strict=True):
        row += part
    return rows


def _until(ids: list[int], ends: tuple[int, ...]) -> list[int]:
  return list(itertools.takewhile(lambda token: token not in ends, ids))


def _next(
  transformer: Transformer,
  sampling: Sampling,
  params: Params,
  tokens: Int[Array, "b t"],
  cache: Cache,
  keys: Key[Array, "b"],
) -> tuple[Int[Array, "b"], Cache]:
  """Returns the token that comes after these in each row, and the cache with them."""
  logits, cache = transformer.extend(params, tokens, cache)
  at = cache.end - cache.start  # of the row, whatever is beside it
  return draw(logits, jax.vmap(jax.random.fold_in)(keys, at), sampling), cache


@partial(jax.jit, static_argnums=(0, 1))
def _read(
  transformer: Transformer,
  sampling: Sampling,
  params: Params,
  tokens: Int[Array, "b t"],
  start: Int[Array, "b"],
  key: Key[Array, ""],
  first: Int[Array, ""],
) -> tuple[Int[Array, "b"], Cache, Key[Array, "b"]]:
  """Returns the token after each row's prompt, the cache with the prompts, and the rows' keys."""
  dtype = jnp.dtype(transformer.compute.dtype)
  cache = Cache.empty(transformer.config, start, tokens.shape[1], dtype)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(len(start)))
  ids, cache = _next(transformer, sampling, params, tokens, cache, keys)
  return ids, cache, keys


_grown = jax.jit(Cache.grown, static_argnums=1)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=5)
def _write(
  transformer: Transformer,
  sampling: Sampling,
  ends: tuple[int, ...],
  params: Params,
  ids: Int[Array, "b"],
  cache: Cache,
  done: Bool[Array, "b"],
  keys: Key[Array, "b"],
) -> tuple[Int[Array, "b n"], Int[Array, "b"], Cache, Bool[Array, "b"]]:
  """Returns the tokens after `ids`, of rows that have ended an end, and what is to go on with."""

  def step(carried: tuple, _: None) -> tuple[tuple, Int[Array, "b"]]:
    ids, cache, done = carried
    ids, cache = _next(transformer, sampling, params, ids[:, None], cache, keys)
    ids = jnp.where(done, ends[0], ids)
    return (ids, cache, done | jnp.isin(ids, jnp.array(ends))), ids

  (ids, cache, done), parts = jax.lax.scan(step, (ids, cache, done), None, _CHUNK)
  return parts.T, ids, cache, done

"""Perplexity per token and bits per byte of one transformer on held-out text."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.sharding import Mesh

from specialization import losses, sharding
from specialization.models.transformer import Transformer
from specialization.train.step import Batch


@dataclasses.dataclass(frozen=True)
class Score:
  """Total -log p in nats over so many tokens, which are so many bytes of UTF-8 text."""

  nats: float
  tokens: int
  bytes: int

  @property
  def nll(self) -> float:
    """Nats per token."""
    return self.nats / self.tokens

  @property
  def perplexity(self) -> float:
    return math.exp(min(self.nll, 700.0))

  @property
  def bits_per_byte(self) -> float:
    return self.nats / math.log(2) / self.bytes


def make_evaluator(
  transformer: Transformer, mesh: Mesh, where_params: Any, where_batch: Any
) -> Callable[[Any, Batch], tuple[jax.Array, jax.Array]]:
  """Returns (params, batch of one group) -> (nats, tokens), jitted over the mesh."""

  def evaluate(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    tokens, mask = batch["tokens"][0], batch["mask"][0]
    return losses.next_token(transformer.logits(params, tokens[:, :-1]), tokens[:, 1:], mask)

  whole = sharding.replicated(mesh)
  return jax.jit(evaluate, in_shardings=(where_params, where_batch), out_shardings=whole)


def score(
  evaluator: Callable[[Any, Batch], tuple[jax.Array, jax.Array]],
  params: Any,
  batches: Iterable[Batch],
  n_bytes: int,
) -> Score:
  """Adds up the loss over all batches; sums are taken in double precision on the host."""
  sums = [evaluator(params, batch) for batch in batches]
  nats = math.fsum(float(n) for n, _ in sums)
  return Score(nats, round(math.fsum(float(c) for _, c in sums)), n_bytes)

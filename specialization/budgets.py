"""The four budgets in numbers: parameters, FLOPs, tokens, device-hours, and their ledger.

Pure Python. Model FLOPs are the matrix products' multiplications and additions, attention counted
over all pairs of positions (PaLM, arXiv 2204.02311, appendix B), the backward pass as twice the
forward one, recomputation not counted.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from specialization.config import BudgetsConfig, ModelConfig
from specialization.errors import UserError
from specialization.method import HorizonConfig

BOOKS = ("generic", "specialization", "inference", "data")
VALIDATION = "validation"  # ends the phases of looks at validation text


@dataclasses.dataclass(frozen=True)
class Links:
  """How chips are linked that lie in a box of two or three sides.

  Attributes:
    speed: bytes/s that a chip sends along one side, both ways together.
    sides: how many the box has.
    closed: a side of a multiple of so many chips is a ring, else a line; with three sides, only if
      all of them are.
  """

  speed: float
  sides: int
  closed: int


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one device can do, from its maker's data sheet.

  Attributes:
    flops: dense bfloat16 FLOP/s.
    memory: bytes.
    bandwidth: of that memory, bytes/s.
    links: to the chips beside it, None: they are not laid out in a box.
  """

  flops: float
  memory: int
  bandwidth: float
  links: Links | None = None


# By the name that jax has for it. An unknown one has no MFU, rather than one against a wrong peak.
CHIPS = {
  "TPU v4": Chip(275e12, 32 * 2**30, 1.23e12, Links(9e10, 3, 4)),
  "TPU v5 lite": Chip(197e12, 16 * 2**30, 8.1e11, Links(9e10, 2, 16)),
  "TPU v5": Chip(459e12, 95 * 2**30, 2.77e12, Links(1.8e11, 3, 4)),
  "TPU v6 lite": Chip(918e12, 32 * 2**30, 1.64e12, Links(1.8e11, 2, 16)),
  "NVIDIA A100-SXM4-40GB": Chip(312e12, 40 * 10**9, 1.56e12),
  "NVIDIA A100-SXM4-80GB": Chip(312e12, 80 * 10**9, 2.04e12),
  "NVIDIA H100 80GB HBM3": Chip(989e12, 80 * 10**9, 3.35e12),
  "NVIDIA H200": Chip(989e12, 141 * 10**9, 4.8e12),
}


def mlp_parameters(model: ModelConfig) -> int:
  """Parameters of one layer's MLP kernels: gate, up and down."""
  return 3 * model.d_model * model.d_mlp


def attention_parameters(model: ModelConfig) -> int:
  """Parameters of one layer's attention kernels: query, key, value and output."""
  return 2 * model.d_model * (model.n_heads + model.n_kv_heads) * model.head_dim


def parameters(model: ModelConfig, vocab_size: int) -> int:
  """Parameters of one transformer, embeddings and norms included."""
  layer = mlp_parameters(model) + attention_parameters(model) + 2 * model.d_model
  tables = 1 if model.tie_embeddings else 2
  return model.n_layers * layer + model.d_model + tables * vocab_size * model.d_model


def forward_flops_per_token(model: ModelConfig, vocab_size: int, length: int) -> int:
  """Model FLOPs of a forward pass per token of a row of `length` tokens."""
  layer = 2 * (mlp_parameters(model) + attention_parameters(model)) + 4 * length * model.d_model
  return model.n_layers * layer + 2 * model.d_model * vocab_size


def train_flops_per_token(model: ModelConfig, vocab_size: int, length: int) -> int:
  """Model FLOPs of a forward and backward pass per token."""
  return 3 * forward_flops_per_token(model, vocab_size, length)


def generic_limit(limits: BudgetsConfig) -> float:
  """Returns the FLOPs that may be spent on one generic pretraining."""
  return _limit(limits.generic_flops, limits.generic_device_hours, limits)


def specialization_limit(limits: BudgetsConfig) -> float:
  """Returns the FLOPs that may be spent on one domain."""
  return _limit(limits.specialization_flops, limits.specialization_device_hours, limits)


def _limit(flops: float, device_hours: float, limits: BudgetsConfig) -> float:
  """Returns what a budget in either or both of its units allows; 0 is no limit."""
  return min(flops or math.inf, device_hours * 3600 * limits.sustained_flops or math.inf)


def steps(
  horizon: HorizonConfig, tokens_per_step: int, flops_per_step: float, most_flops: float = math.inf
) -> int:
  """Returns the number of whole steps that the horizon and a limit pay for.

  Device-hours count every device, so more of them spend a budget sooner and not on more steps.

  Raises:
    UserError: they pay for none.
  """
  flops = horizon.flops + horizon.device_hours * 3600 * horizon.sustained_flops
  count = horizon.steps or math.floor(horizon.tokens / tokens_per_step + flops / flops_per_step)
  if count < 1:
    raise UserError(
      f"The horizon is too small for one step of {tokens_per_step:,} tokens and"
      f" {flops_per_step:.3g} FLOPs: raise it or make the batch smaller."
    )
  if most_flops < flops_per_step:
    raise UserError(
      f"The budget has {most_flops:.3g} FLOPs left, too few for one step of {tokens_per_step:,}"
      f" tokens and {flops_per_step:.3g} FLOPs: raise it or make the batch smaller."
    )
  return min(count, math.floor(min(most_flops / flops_per_step, 2**53)))


@dataclasses.dataclass(frozen=True)
class Entry:
  """What one phase spent, booked to one of BOOKS."""

  book: str
  phase: str
  tokens: int
  flops: float
  seconds: float
  device_hours: float


def entry(
  book: str, phase: str, tokens: int = 0, flops: float = 0.0, seconds: float = 0.0, devices: int = 1
) -> Entry:
  """Books seconds of wall-clock time on so many devices."""
  assert book in BOOKS, book
  return Entry(book, phase, tokens, flops, seconds, seconds * devices / 3600)


def bound(entries: Iterable[Entry], book: str) -> float:
  """Returns the FLOPs that the limit of a book counts: looks at validation text are free."""
  return total((e for e in entries if not e.phase.endswith(VALIDATION)), (book,)).flops


def total(entries: Iterable[Entry], books: Sequence[str] = BOOKS) -> Entry:
  """Adds up the entries of some books."""
  chosen = [e for e in entries if e.book in books]
  return Entry(
    "+".join(books),
    "total",
    sum(e.tokens for e in chosen),
    math.fsum(e.flops for e in chosen),
    math.fsum(e.seconds for e in chosen),
    math.fsum(e.device_hours for e in chosen),
  )


def readable(number: int | float) -> str:
  """Returns 1.23k, 4.56M, 7.89G, ..."""
  for power, letter in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
    if abs(number) >= 10**power:
      return f"{number / 10**power:.3g}{letter}"
  return f"{number:.3g}"

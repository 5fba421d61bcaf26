"""The model card: what a person should know before using a model."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from specialization import budgets

_LIBRARIES = {"hf": "transformers", "gguf": "llama.cpp", "mlx": "mlx", "stablehlo": "jax"}


@dataclasses.dataclass(frozen=True)
class Card:
  """What is known of a model.

  Attributes:
    name, method, domain: of it.
    about: facts, each with its name.
    scores: of held-out texts, before it was written: which, perplexity, bits per byte.
    ledger: of all that was spent on it.
    hashes: of what it was made from.
    files: format and numbers.
    checked: what came of the comparison with what it was made from.
  """

  name: str
  method: str
  domain: str
  about: Mapping[str, str]
  scores: Sequence[tuple[str, float, float]]
  ledger: Sequence[budgets.Entry]
  hashes: Mapping[str, str]
  files: str = ""
  checked: str = ""


def write(card: Card) -> str:
  """Returns a README.md for a model hub."""
  library = _LIBRARIES[card.files.partition(",")[0]]
  about = {"method": card.method, "domain": card.domain, "files": card.files, **card.about}
  lines = [
    "---",
    f"library_name: {library}",
    "pipeline_tag: text-generation",
    f"tags: [specialization, {card.domain}, {card.method}]",
    "---",
    f"# {card.name}",
    "",
    f"A small language model for {card.domain}: it goes on from a text. It is a plain Llama, was"
    " not taught to follow instructions, and knows little of anything else. A text begins with a"
    " special token, which the tokenizer puts there.",
    "",
    *_table(("", ""), about.items()),
    "",
    "## Held-out text",
    "",
    f"These files, {card.checked}" if card.checked[0].islower() else card.checked,
    "",
    *_table(
      ("text, before the model was written", "perplexity per token", "bits per byte"),
      [(text, f"{perplexity:.2f}", f"{bits:.3f}") for text, perplexity, bits in card.scores],
    ),
    "",
    "## What it took",
    "",
    *_table(("budget", "tokens", "model FLOPs", "device-hours"), _books(card.ledger)),
    "",
    "## Made from",
    "",
    *_table(("", "hash"), card.hashes.items()),
    "",
  ]
  return "\n".join(lines)


def _books(ledger: Sequence[budgets.Entry]) -> Sequence[tuple[str, ...]]:
  rows = []
  for book in budgets.BOOKS:
    spent = budgets.total(ledger, (book,))
    if any(entry.book == book for entry in ledger):
      rows.append((book, f"{spent.tokens:,}", f"{spent.flops:.2g}", f"{spent.device_hours:.2g}"))
  return rows


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
  made = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
  return [*made, *(f"| {' | '.join(row)} |" for row in rows)]

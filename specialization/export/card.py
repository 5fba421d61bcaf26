"""The model card: what a person should know before using a model."""

from collections.abc import Iterable, Mapping, Sequence

from specialization import budgets


def write(
  name: str,
  about: Mapping[str, str],
  scores: Sequence[tuple[str, float, float]],
  ledger: Sequence[budgets.Entry],
  hashes: Mapping[str, str],
) -> str:
  """Returns a README.md for a model hub.

  Args:
    name: of the model.
    about: facts, each with its name.
    scores: of held-out texts: which, perplexity, bits per byte.
    ledger: of all that was spent on it.
    hashes: of what it was made from.
  """
  domain = about["domain"]
  lines = [
    "---",
    "library_name: transformers",
    "pipeline_tag: text-generation",
    f"tags: [specialization, {domain}, {about['method']}]",
    "---",
    f"# {name}",
    "",
    f"A small language model for {domain}: it goes on from a text of that domain. It is a plain"
    " Llama, was not taught to follow instructions, and knows little of anything else. A text"
    " begins with the end-of-document token, which the tokenizer puts there.",
    "",
    *_table(("", ""), about.items()),
    "",
    "## Held-out text",
    "",
    *_table(
      ("text", "perplexity per token", "bits per byte"),
      [(text, f"{perplexity:.2f}", f"{bits:.3f}") for text, perplexity, bits in scores],
    ),
    "",
    "## What it took",
    "",
    *_table(("budget", "tokens", "model FLOPs", "device-hours"), _books(ledger)),
    "",
    "## Made from",
    "",
    *_table(("", "hash"), hashes.items()),
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

"""Result records as the phase `evaluate` writes them, with numbers that a test chooses."""

import csv
import html.parser
import io
import json
import math

from specialization import report
from specialization.report import results, tables
from specialization.study import Cell

VOID = {"meta", "br"}
LARGE = (30_000_000, 30_000_000)
KINDS = {
  "slm_nopt": dict(strategy="none", parameters=(0, 5_000_000)),
  "llm": dict(size="llm", parameters=LARGE),
  "slm_is": dict(strategy="importance", clusters=64),
  "slm_mix": dict(family="mixture", strategy="balanced", clusters=8, choice="most_frequent"),
  "slm_pn": dict(family="projected", strategy="clustered", clusters=8, choice="most_frequent"),
  "slm_d": dict(objective="distillation", pretraining="slm"),
}
IMPORTANCE = {
  "clusters": 64,
  "documents": 321,
  "effective_rows": 1234.4,
  "generic_rows": 98_765,
  "repeated": 0.125,
  "kl": 0.0512,
  "kl_generic": 1.5,
  "entropy": 2.0,
  "top_share": 0.5,
  "most_repeats": 6.25,
}


def entry(book, phase, flops=0.0, hours=0.0, tokens=1_000_000):
  return {
    "book": book,
    "phase": phase,
    "tokens": tokens,
    "flops": float(flops),
    "seconds": 3600.0 * hours,
    "device_hours": float(hours),
  }


def save(
  work,
  method="slm",
  domain="scipy",
  tokens=100_000,
  *,
  share=1.0,
  seed=0,
  before=32.0,
  after=8.0,
  generic=(8.0, 16.0),
  routed=None,
  flops=(1e15, 1e14),
  histograms=None,
  ledger=(),
  **fields,
):
  """Writes one cell of a method, by its name of a kind; perplexities are over 1,000 tokens each.

  Validation text gives the same perplexity as test text after fine-tuning.
  """

  def score(perplexity):
    return {"nats": 1000 * math.log(perplexity), "tokens": 1000, "bytes": 500}

  fields = KINDS.get(method, {}) | fields
  choice = fields.pop("choice", "only one")
  own, low = fields.get("strategy") == "importance", math.log(after)
  pretrained = entry("specialization" if own else "generic", "pretrain x", flops[0], 2.0)
  record = {
    "method": method,
    "family": "dense",
    "strategy": "generic",
    "clusters": 1,
    "objective": "next_token",
    "size": "slm",
    "domain": domain,
    "domain_tokens": tokens,
    "share": share,
    "seed": seed,
    "learning_rates": {"pretraining": 2e-3, "fine_tuning": 1e-3},
    "pretraining": method,
    "expert": {"choice": choice, "cluster": None, "share": None if choice == "only one" else 0.25},
    "histograms": histograms or {"8": {"top_share": 0.5, "entropy": 1.25}},
    "importance": IMPORTANCE if own else None,
    "parameters": (5_000_000, 5_000_000),
    "before": {"domain": score(before), "generic": score(generic[0])}
    | {"routed": score(routed or generic[0])},
    "after": {"domain": score(after), "generic": score(generic[1]), "rolling": score(0.99 * after)},
    "ledger": [
      *([] if fields.get("strategy") == "none" else [pretrained]),
      entry("specialization", "specialize x", flops[1], 0.5),
      entry("inference", "test", 1e10, 0.0, 1000),
      *ledger,
    ],
    "stopped": {"step": 150, "reason": "no improvement for 3 evaluations", "best_step": 100},
    "curve": [[0, low + 1.5], [50, low + 0.5], [100, low], [150, low + 0.1]],
    "used_tokens": tokens,
    "hardware": "a machine",
    "date": "2026-11-24",
    "command": "a command",
    **fields,
  }
  record["parameters"] = dict(zip(("pretraining", "inference"), record["parameters"], strict=True))
  name = f"{method}-{domain}-{tokens}-{share}-{seed}.json".replace("/", "")
  path = work / "results" / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(record))
  return path


def change(path, edit):
  """Lets a function edit a record in place."""
  record = json.loads(path.read_text())
  edit(record)
  path.write_text(json.dumps(record))


def log(work, run, speeds):
  """Writes the metrics of a pretraining."""
  folder = work / "pretrain" / run
  folder.mkdir(parents=True)
  lines = [
    {"step": i, "tokens": 10 * i, "loss": 9 / i, "tokens_per_second": speed}
    for i, speed in enumerate(speeds, 1)
  ]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def cells(*names, share=1.0, seed=0):
  """Returns cells of (method, domain, tokens)."""
  return [Cell(method, domain, tokens, share, seed) for method, domain, tokens in names]


def table(work, expected=()):
  """Returns the rows of table.csv by method and domain tokens, and share if that is not 1."""
  found = {}
  for row in csv.DictReader(io.StringIO(tables.csv_table(results.load(work, expected)))):
    key = (row["method"], int(row["domain_tokens"]))
    found[key if row["share"] == "1" else (*key, row["share"])] = row
  return found


def written(work, expected=(), name="a study"):
  return report.write(work, name, expected, "a command").read_text()


def shown(section, title=""):
  """Returns the rows of a section's table as texts, values with their spreads."""
  parts = [part for part in section.parts if hasattr(part, "bodies") and part.title == title]
  return [[text(item) for item in row] for body in parts[0].bodies for row in body]


def text(item):
  if isinstance(item, str):
    return item
  return f"{item.value} {item.spread}".strip() if hasattr(item, "value") else item.method


class Reader(html.parser.HTMLParser):
  """Checks that tags nest, and collects attributes and texts."""

  def __init__(self, source):
    super().__init__()
    self.open, self.attributes, self.texts, self.tags = [], [], [], set()
    self.feed(source)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes += [(tag, *pair) for pair in attrs]
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.attributes += [(tag, *pair) for pair in attrs]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)

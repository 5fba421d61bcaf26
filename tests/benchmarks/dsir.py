"""Importance sampling by clusters against DSIR (arXiv 2302.03169), which weighs hashed n-grams.

pip install data-selection==1.0.3 nltk
python tests/benchmarks/dsir.py --config=configs/documentation_study.py --workdir=runs/study \
  --folder=FOLDER --out=runs/dsir --domains=django,git,scipy

Both look at the same text of the domain and choose among the same generic documents as many tokens
as the study's pretraining takes; then the same small model is pretrained and fine-tuned, with the
same tokenizer and steps. The study has to be there. Prints held-out perplexities side by side.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from absl import app, flags

from specialization import main as command
from specialization.config import Config
from specialization.data.documents import Documents
from specialization.data.store import Store
from specialization.data.tokenizer import Tokenizer

CONFIG = flags.DEFINE_string("config", None, "The study's config.", required=True)
FOLDER = flags.DEFINE_string("folder", None, "The config's data.folder.", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The study's folder.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for selections and runs.", required=True)
DOMAINS = flags.DEFINE_list("domains", None, "Names of domains.", required=True)

_TURNS, _TOLERANCE = 16, 0.02  # of the search for as many tokens


def write(path: Path, texts: Iterable[str]) -> str:
  """Writes a .jsonl file and returns its name."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w") as file:
    file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
  return str(path)


def first_texts(store: Store, tokenizer: Tokenizer, max_tokens: int) -> Iterator[str]:
  """Yields what the first rows of a store hold, document by document."""
  ids = store.rows(np.arange(store.first(max_tokens))).ravel()
  for part in np.split(ids, np.flatnonzero(ids == tokenizer.end_of_document)):
    text = tokenizer.decode(part[part != tokenizer.end_of_document])
    if text.strip():
      yield text


def count_tokens(path: Path, tokenizer: Tokenizer) -> int:
  """Returns how many tokens the store will have of a .jsonl file."""
  texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
  return sum(len(ids) + 1 for ids in tokenizer.encode_batch(texts))


def select(config: Config, domain: str, folder: Path) -> None:
  """Writes the generic documents that DSIR selects for a domain to folder/selected.jsonl."""
  from data_selection import HashedNgramDSIR

  data = Path(WORKDIR.value) / "data"
  tokenizer, generic = Tokenizer(data / "tokenizer"), Documents(data / "documents/generic")
  raw = Path(OUT.value) / "generic.jsonl"
  if not raw.exists():
    write(raw, generic.texts("train"))
  seen = config.importance.tokens or min(config.specialize.domain_tokens)
  target = first_texts(Store(data / "train" / domain), tokenizer, seen)
  train = config.methods["slm"].pretrain
  wanted = train.horizon.steps * train.batch_rows * config.sequence_length
  dsir = HashedNgramDSIR([str(raw)], [write(folder / "target.jsonl", target)], str(folder / "dsir"))
  dsir.fit_importance_estimator(num_tokens_to_fit="all")
  dsir.compute_importance_weights()
  # DSIR takes a number of documents. Which they are says how long they are, and more of them
  # include all of fewer: so the number of tokens is closed in on from both sides.
  fewer, more = (0, 0), (generic.count("train"), Store(data / "train/generic").n_tokens)
  for turn in range(_TURNS):
    share = (wanted - fewer[1]) / (more[1] - fewer[1]) if turn % 2 else 0.5
    count = round(fewer[0] + share * (more[0] - fewer[0]))
    np.random.seed(0)  # DSIR draws from numpy's global generator.
    drawn = folder / f"drawn-{turn}"
    dsir.resample(str(drawn), count, str(folder / f"unfinished-{turn}"))
    (file,) = drawn.rglob("*.jsonl")
    tokens = count_tokens(file, tokenizer)
    print(f"{domain}: {count:,} documents, {tokens:,} of {wanted:,} tokens.", flush=True)
    if abs(tokens - wanted) < _TOLERANCE * wanted:
      file.rename(folder / "selected.jsonl")
      return
    fewer, more = ((count, tokens), more) if tokens < wanted else (fewer, (count, tokens))
  raise SystemExit(f"{domain}: no number of documents has about {wanted:,} tokens.")


def perplexities(workdir: Path, method: str, domain: str) -> dict[int, float]:
  """Returns the held-out perplexity before fine-tuning (0) and after each amount of its text."""
  found = {}
  for path in (workdir / "results").glob(f"{method}--{domain}--*--b100--s0.json"):
    record = json.loads(path.read_text())
    for tokens, when in ((0, "before"), (record["domain_tokens"], "after")):
      score = record[when]["domain"]
      found[tokens] = math.exp(score["nats"] / score["tokens"])
  if not found:
    raise SystemExit(f"{workdir} has no {method}--{domain}--*--b100--s0 yet: run the study first.")
  return dict(sorted(found.items()))


def main(_: list[str]) -> None:
  config = command.load_config(CONFIG.value, {"data.folder": FOLDER.value})
  for domain, method in itertools.product(DOMAINS.value, ("slm", "slm_is")):
    perplexities(Path(WORKDIR.value), method, domain)
  for domain in DOMAINS.value:
    folder = Path(OUT.value) / domain
    if not (folder / "selected.jsonl").exists():
      select(config, domain, folder)
    command.main(
      [
        "run",
        f"--config={CONFIG.value}",
        f"--workdir={folder / 'run'}",
        f"--only=slm--{domain}--*--b100--s0",
        f"--config.data.folder={FOLDER.value}",
        f"--config.data.generic.train=('{(folder / 'selected.jsonl').absolute()}',)",
        f"--config.tokenizer.file={Path(WORKDIR.value) / 'data/tokenizer/tokenizer.json'}",
        "--config.clusters.embedder=tfidf",
      ]
    )
  for domain in DOMAINS.value:
    rows = {
      "random": perplexities(Path(WORKDIR.value), "slm", domain),
      "dsir": perplexities(Path(OUT.value) / domain / "run", "slm", domain),
      "clusters": perplexities(Path(WORKDIR.value), "slm_is", domain),
    }
    print(json.dumps({"domain": domain, "perplexity": rows}))


if __name__ == "__main__":
  app.run(main)

"""Phase `export`: a small model leaves, in files that others read, with the proof that they do."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from specialization import artifact, budgets, evaluate, processes
from specialization.config import Config
from specialization.data import store
from specialization.data.tokenizer import Tokenizer
from specialization.errors import UserError
from specialization.export import FORMATS, Format, Package, card
from specialization.export.check import check
from specialization.models import Params, Transformer
from specialization.phases.evaluate import Evaluation
from specialization.phases.pretrain import Pretrained
from specialization.phases.specialize import Specialization
from specialization.strict import one_of

Leaves = Callable[[tuple[str, ...]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
  """A small model and what is known of it.

  Attributes:
    name: of the model, and of its folder.
    made_from: what its parameters were made from.
    transformer: of its size.
    params: gives all parameters, on the mesh of single transformers.
    leaves: opens what gives one after the other, in this host's memory.
    held_out: text to compare on.
    card: gives what a person should know.
  """

  name: str
  made_from: dict[str, Any]
  transformer: Transformer
  params: Callable[[], Params]
  leaves: Callable[[], contextlib.AbstractContextManager[Leaves]]
  held_out: store.Store
  card: Callable[[], card.Card]


def of_cell(config: Config, workdir: Path, cell: Specialization, command: str) -> Source:
  """Returns what a cell's fine-tuning made."""
  result = Evaluation(config, workdir, cell, command).result

  @contextlib.contextmanager
  def leaves() -> Iterator[Leaves]:
    with contextlib.closing(cell.checkpoints()) as checkpoints:
      yield functools.partial(checkpoints.leaf, checkpoints.best() or 0)

  def text() -> card.Card:
    found = result()
    about = {
      "family at pretraining": cell.row.family,
      "expert": ", ".join(
        f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}"
        for k, v in found["expert"].items()
        if v is not None
      ),
      "text of the domain": f"{found['used_tokens']:,} tokens",
      "parameters": f"{found['parameters']['inference']:,}",
      "positions": f"{config.sequence_length}",
      "made on": f"{found['date']}, {found['hardware']}",
    }
    scores = [
      (f"{name}, {when} fine-tuning", *_figures(found[when][kind]))
      for kind, name in (("domain", cell.cell.domain), ("generic", "generic"))
      for when in ("before", "after")
    ]
    rolling = f"{cell.cell.domain}, after fine-tuning, in lm-eval's windows"
    scores.append((rolling, *_figures(found["after"]["rolling"])))
    ledger = [budgets.Entry(**entry) for entry in found["ledger"]]
    hashes = {
      "generic text": cell.data.train.hash,
      f"text of {cell.cell.domain}": cell.domain.train.hash,
      "tokenizer": cell.data.tokenizer.digest,
      "pretraining": artifact.fingerprint(cell.pretrained.made_from),
      "fine-tuning": artifact.fingerprint(cell.made_from),
    }
    return card.Card(
      cell.cell.name, cell.cell.method, cell.cell.domain, about, scores, ledger, hashes
    )

  return Source(
    cell.cell.name,
    cell.made_from,
    cell.pretrained.family.transformer,
    cell.params,
    leaves,
    cell.domain.test,
    text,
  )


def of_run(config: Config, run: Pretrained, expert: str) -> Source:
  """Returns the small model of a pretraining, not fine-tuned.

  Args:
    config: of the study.
    run: that was pretrained.
    expert: its number, or the domain whose histogram mixes the experts.

  Raises:
    UserError: there is no such expert or domain, or it was not pretrained yet.
  """
  k, data, row = run.family.clusters, run.data, run.row
  if expert.isdecimal():
    if int(expert) >= k:
      raise UserError(f"{run.run.name} has experts 0 to {k - 1}, not --expert={expert}.")
    domain, mixture = "", np.eye(k)[int(expert)]
  else:
    one_of("--expert (a number, or a domain)", expert, tuple(config.data.domains))
    domain = expert
    mixture = data.domain(domain).train.histogram(data.tree, k) if k > 1 else np.ones(1)
  record = run.record()
  params = functools.lru_cache(1)(lambda: run.materialize(mixture))

  @contextlib.contextmanager
  def leaves() -> Iterator[Leaves]:
    made = params()
    yield lambda path: np.asarray(functools.reduce(lambda tree, key: tree[key], path, made))

  def text() -> card.Card:
    about = {
      "family at pretraining": row.family,
      "expert": f"mixture by the histogram of {domain}" if domain else f"{expert} of {k}",
      "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(params())):,}",
      "positions": f"{config.sequence_length}",
    }
    stores = {"generic": data.validation}
    if domain:
      held_out = data.domain(domain)
      stores |= {domain: held_out.test, f"{domain}, in lm-eval's windows": held_out.rolling}
    found = {name: run.score(mixture, on) for name, on in stores.items()}
    scores = [(name, score.perplexity, score.bits_per_byte) for name, score in found.items()]
    ledger = [budgets.Entry(**entry) for entry in record["ledger"]]
    hashes = {"generic text": data.train.hash, "tokenizer": data.tokenizer.digest}
    hashes["pretraining"] = artifact.fingerprint(run.made_from)
    name = f"{run.run.name}--{expert}"
    where = domain or "generic text"
    return card.Card(name, run.run.method, where, about, scores, ledger, hashes)

  return Source(
    f"{run.run.name}--{expert}",
    run.made_from | {"expert": mixture.tolist()},
    run.family.transformer,
    params,
    leaves,
    data.domain(domain).test if domain else data.validation,
    text,
  )


def _figures(score: dict[str, Any]) -> tuple[float, float]:
  found = evaluate.Score(**score)
  return found.perplexity, found.bits_per_byte


class Export:
  """One model in one format, in a folder that appears whole or not at all."""

  def __init__(self, config: Config, folder: Path, source: Source, kind: str, dtype: str):
    self._config, self._source, self._kind, self._dtype = config, source, kind, dtype
    self._format: Format = FORMATS[kind]
    self.folder = folder / source.name / f"{kind}-{dtype}"

  def result(self, tokenizer: Tokenizer, is_checked: bool = True) -> Path:
    """Returns the folder, writing and checking it now if it is not there yet.

    Args:
      tokenizer: of the study.
      is_checked: False: what was written is not opened again, which takes memory for the model.

    Raises:
      UserError: it cannot be written, or what was written is not what was to be.
    """
    source = self._source
    made_from = {"model": artifact.fingerprint(source.made_from), "dtype": self._dtype}
    if artifact.exists(self.folder, made_from):
      print(f"export {source.name}: {self.folder} is there already.", flush=True)
      return self.folder
    if self.folder.exists():
      raise UserError(f"{self.folder} is in the way of the export: move it away, or choose --to.")
    text, score = source.card(), "It was not compared with what it was made from."
    with source.leaves() as leaf, artifact.create(self.folder, made_from) as temporary:
      package = Package(
        source.name,
        self._config.sequence_length,
        tokenizer.file,
        tokenizer.vocab_size,
        tokenizer.begin_of_document,
        tokenizer.end_of_document,
        leaf,
        source.transformer,
        f"A small language model for {text.domain}.",
      )
      with self._told("write"):
        self._format.write(package, temporary, self._dtype)
      if is_checked:
        with self._told("read"):
          score = check(
            *(package, source.params(), self._format, self._dtype, temporary, source.held_out)
          )
      written = dataclasses.replace(text, files=f"{self._kind}, {self._dtype}", checked=score)
      (temporary / "README.md").write_text(card.write(written))
    size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
    print(f"export {source.name}: {size / 1e6:.2f} MB in {self.folder}; {score}", flush=True)
    return self.folder

  @contextlib.contextmanager
  def _told(self, what: str) -> Iterator[None]:
    try:
      yield
    except ImportError as error:
      name = (error.name or str(error)).partition(".")[0]
      wanted = "-e .[mlx]" if name == "mlx" else name
      raise UserError(
        f"To {what} {self._kind} {self._dtype} takes {name}, which is not installed: pip install"
        f" {wanted}."
      ) from error


def checked_flags(kind: str, dtype: str) -> str:
  """Returns the type of numbers, the format's first if none is given.

  Raises:
    UserError: there is no such format or type in it, or several processes ask.
  """
  if processes.count() > 1:
    raise UserError("A model leaves by one process: run `export` without --coordinator.")
  one_of("--format", kind, tuple(FORMATS))
  dtype = dtype or FORMATS[kind].dtypes[0]
  one_of(f"--dtype of --format={kind}", dtype, FORMATS[kind].dtypes)
  return dtype

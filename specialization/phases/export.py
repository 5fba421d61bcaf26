"""Phase `export`: a small model leaves, in files that others read, with the proof that they do."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specialization import artifact, budgets, evaluate, processes, sharding
from specialization.config import Config
from specialization.data import store
from specialization.errors import UserError
from specialization.export import FORMATS, Format, Package, card
from specialization.models import Params, Transformer
from specialization.phases.evaluate import Evaluation
from specialization.phases.pretrain import Pretrained
from specialization.phases.specialize import Specialization
from specialization.strict import one_of

_ROWS = 64  # of held-out text on which both readers are asked for their perplexity
_COMPARED = 8  # of these, of which all logits are compared; and as many rows of random tokens
# By what is in the name of a type: what logits may differ by, and perplexity relatively.
_TOLERANCES = {
  "32": (1e-4, 1e-4),
  "bf": (0.5, 0.01),
  "16": (0.05, 0.002),
  "8": (math.inf, 0.03),
  "4": (math.inf, 0.5),
}


@dataclasses.dataclass(frozen=True)
class Source:
  """A small model and what is known of it.

  Attributes:
    name: of the model, and of its folder.
    made_from: what its parameters were made from.
    transformer: of its size.
    params: gives all parameters, on the mesh of single transformers.
    leaves: gives what reads one after the other.
    held_out: text to compare on.
    card: what a person should know.
  """

  name: str
  made_from: dict[str, Any]
  transformer: Transformer
  params: Callable[[], Params]
  leaves: Callable[[], contextlib.AbstractContextManager[Callable[[tuple[str, ...]], np.ndarray]]]
  held_out: store.Store
  card: Callable[[], str]


def of_cell(config: Config, workdir: Path, cell: Specialization, command: str) -> Source:
  """Returns what a cell's fine-tuning made."""
  result = Evaluation(config, workdir, cell, command).result  # Of a test that may be to be done.

  @contextlib.contextmanager
  def leaves() -> Iterator[Callable[[tuple[str, ...]], np.ndarray]]:
    with contextlib.closing(cell.checkpoints()) as checkpoints:
      yield functools.partial(checkpoints.leaf, checkpoints.best() or 0)

  def text() -> str:
    found = result()
    about = {
      "method": cell.cell.method,
      "domain": cell.cell.domain,
      "family at pretraining": cell.row.family,
      "expert": ", ".join(f"{k} {v}" for k, v in found["expert"].items() if v is not None),
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
    ledger = [budgets.Entry(**entry) for entry in found["ledger"]]
    hashes = {
      "generic text": cell.data.train.hash,
      f"text of {cell.cell.domain}": cell.domain.train.hash,
      "tokenizer": cell.data.tokenizer.digest,
      "pretraining": artifact.fingerprint(cell.pretrained.made_from),
      "fine-tuning": artifact.fingerprint(cell.made_from),
    }
    return card.write(cell.cell.name, about, scores, ledger, hashes)

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
  if expert.isdigit():
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
  def leaves() -> Iterator[Callable[[tuple[str, ...]], np.ndarray]]:
    made = params()
    yield lambda path: np.asarray(functools.reduce(lambda tree, key: tree[key], path, made))

  def text() -> str:
    about = {
      "method": run.run.method,
      "domain": domain or "generic text",
      "family at pretraining": row.family,
      "expert": f"mixture by the histogram of {domain}" if domain else f"{expert} of {k}",
      "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(params())):,}",
      "positions": f"{config.sequence_length}",
    }
    stores = {"generic": data.validation} | ({domain: data.domain(domain).test} if domain else {})
    scores = [
      (name, found.perplexity, found.bits_per_byte)
      for name, on in stores.items()
      if (found := run.score(mixture, on))
    ]
    ledger = [budgets.Entry(**entry) for entry in record["ledger"]]
    hashes = {"generic text": data.train.hash, "tokenizer": data.tokenizer.digest}
    hashes["pretraining"] = artifact.fingerprint(run.made_from)
    return card.write(f"{run.run.name}--{expert}", about, scores, ledger, hashes)

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
    """Raises UserError if there is no such format or type of numbers in it."""
    if processes.count() > 1:
      raise UserError("A model leaves by one process: run `export` without --coordinator.")
    one_of("--format", kind, tuple(FORMATS))
    self._format: Format = FORMATS[kind]
    dtype = dtype or self._format.dtypes[0]
    one_of(f"--dtype of --format={kind}", dtype, self._format.dtypes)
    self._config, self._source, self._kind, self._dtype = config, source, kind, dtype
    self.folder = folder / source.name / f"{kind}-{dtype}"

  def result(self, tokenizer: Path, end: int) -> Path:
    """Returns the folder, writing and checking it now if it is not there yet.

    Raises:
      UserError: it cannot be written, or what was written is not what was to be.
    """
    source, config = self._source, self._config
    made_from = {"model": artifact.fingerprint(source.made_from), "dtype": self._dtype}
    if artifact.exists(self.folder, made_from):
      print(f"export {source.name}: {self.folder} is there already.", flush=True)
      return self.folder
    if self.folder.exists():
      raise UserError(f"{self.folder} is in the way of the export: move it away, or choose --to.")
    text = source.card()
    plain = dataclasses.replace(
      source.transformer,
      compute=dataclasses.replace(
        config.compute, dtype="float32", attention="reference", remat="none"
      ),
    )
    with source.leaves() as leaf:
      package = Package(
        source.name,
        plain.config,
        config.sequence_length,
        tokenizer,
        plain.vocab_size,
        end,
        leaf,
        plain.logits,
        text,
      )
      with artifact.create(self.folder, made_from) as temporary:
        self._try(lambda: self._format.write(package, temporary, self._dtype), "write")
        said = self._check(package, temporary)
    size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
    print(f"export {source.name}: {size / 1e6:.2f} MB in {self.folder}; {said}", flush=True)
    return self.folder

  def _try(self, do: Callable[[], Any], what: str) -> Any:
    try:
      return do()
    except ImportError as error:
      name = (error.name or str(error)).partition(".")[0]
      wanted = "-e .[mlx]" if name == "mlx" else name
      raise UserError(
        f"To {what} {self._kind} {self._dtype} takes {name}, which is not installed: pip install"
        f" {wanted}."
      ) from error

  def _check(self, package: Package, folder: Path) -> str:
    """Compares what was written with what was to be; returns what was found, in a sentence."""
    ours = self._ours(package, jax.device_get(self._source.params()))
    try:
      theirs, reader = self._format.read(folder).logits, self._format.reader
    except ImportError:
      back = self._try(lambda: self._format.weights(folder, package.config), "read")
      theirs = self._ours(package, back)
      reader = f"our own reader, without {self._format.reader}"
    held_out = self._source.held_out
    index = np.linspace(0, held_out.n_rows - 1, min(_ROWS, held_out.n_rows)).astype(np.int64)
    rows, mask = held_out.rows(index), held_out.mask(index)
    rng = np.random.default_rng(0)
    odd = rng.integers(0, package.vocab_size, (_COMPARED, package.length), np.int32)
    compared = np.concatenate([rows[:_COMPARED, :-1], odd])
    a, b = ours(compared), theirs(compared)
    difference = float(np.abs(a - b).max())
    agree = float(np.mean(a.argmax(-1) == b.argmax(-1)))
    mine, other = (perplexity(logits, rows, mask) for logits in (ours, theirs))
    said = (
      f"{reader}: logits differ by {difference:.2g} at most, {agree:.2%} have the same likeliest"
      f" token, perplexity of {int(mask.sum()):,} held-out tokens {other:.4f}, ours {mine:.4f}."
    )
    most, relative = next(t for name, t in _TOLERANCES.items() if name in self._dtype)
    if not difference <= max(most, self._format.slack) or not abs(other / mine - 1) <= relative:
      raise UserError(
        f"What was written as {self._kind} {self._dtype} is not {package.name} ({said[:-1]}): it"
        " was removed; please report this with the versions of the packages."
      )
    return said

  def _ours(self, package: Package, params: Params) -> Callable[[np.ndarray], np.ndarray]:
    compiled = jax.jit(package.apply)

    def logits(tokens: np.ndarray) -> np.ndarray:
      with jax.set_mesh(sharding.alone()):
        return np.asarray(compiled(params, jnp.asarray(tokens, jnp.int32)))

    return logits


def perplexity(
  logits: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, mask: np.ndarray
) -> float:
  """Returns exp of the mean of -log p over targets where mask is True, row by row."""
  nats = 0.0
  for row, seen in zip(rows, mask, strict=True):
    found = logits(row[None, :-1])[0].astype(np.float64)
    top = found.max(-1, keepdims=True)
    normal = top[:, 0] + np.log(np.exp(found - top).sum(-1))
    nats += float(np.sum((normal - np.take_along_axis(found, row[1:, None], 1)[:, 0])[seen]))
  return math.exp(nats / mask.sum())

"""Phase `prepare`: from sources of text to tokenizer, cluster tree and stores."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from specialization import artifact, budgets
from specialization.config import Config
from specialization.data import clusters, documents, embed, rows, store, tokenizer
from specialization.phases.build import preparing_mesh


@dataclasses.dataclass(frozen=True)
class DomainStores:
  train: store.Store
  validation: store.Store
  test: store.Store
  rolling: store.Rolling  # the same text as `test`, in lm-eval's windows


class Prepared:
  """The data of a study; what is missing is made on first use."""

  def __init__(self, config: Config, workdir: Path):
    self._config, self._data, self._folder = config, config.data, workdir / "data"
    self._domains: dict[str, DomainStores] = {}
    c, mesh = config.clusters, preparing_mesh(config)
    generic = self._documents("generic")
    make = self._booked
    self.tokenizer = make(
      "tokenizer", lambda path: tokenizer.prepare(generic, config.tokenizer, path)
    )
    self._embedder: embed.Embedder = make(
      "embedder", lambda path: embed.prepare(generic, c, path, config.seed, mesh)
    )
    vectors = self._embed("generic", generic)
    source = artifact.fingerprint({"documents": generic.hash, "embedder": self._embedder.hash})
    self.tree: clusters.ClusterTree = make(
      "clusters",
      lambda path: clusters.prepare(vectors, c, path, config.seed, mesh, source),
      flops=clusters.most_flops(c, *vectors.shape),
    )
    self.train = self._store("generic", generic, vectors, by_leaf=True)
    held_out = self._embed("generic", generic, "validation")
    self.validation = self._windows(
      "generic",
      generic,
      "validation",
      leaves=clusters.assign(held_out, self.tree.centroids),
      n_leaves=self.tree.n_leaves,
      clusters=self.tree.hash,
    )

  def domain(self, name: str) -> DomainStores:
    """Returns a domain's stores; its training store is in one shuffled order."""
    if name not in self._domains:
      self._domains[name] = self._make_domain(name)
    return self._domains[name]

  def _make_domain(self, name: str) -> DomainStores:
    docs = self._documents(name)
    train = self._store(name, docs, self._embed(name, docs), by_leaf=False)
    validation, test = (self._windows(name, docs, split) for split in ("validation", "test"))
    return DomainStores(train, validation, test, store.Rolling(self._folder / "test" / name))

  def ledger(self, domain: str) -> list[budgets.Entry]:
    """Returns what generic data and one domain's cost to prepare."""
    entries = []
    for path in sorted((self._folder / "ledger").glob("*.json")):
      found = budgets.Entry(**json.loads(path.read_text()))
      if found.phase.rpartition("/")[2] not in set(self._data.domains) - {domain}:
        entries.append(found)
    return entries

  def _booked(
    self,
    name: str,
    make: Callable[[Path], Any],
    spent: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
    flops: float = 0.0,
  ) -> Any:
    """Makes or opens an artifact; time and FLOPs of making it go to the data book.

    Args:
      name: of the artifact.
      make: from where it belongs to what it is.
      spent: FLOPs so far, and seconds of earlier runs whose work was of use.
      flops: of it that are known beforehand, at most.
    """
    path, started, before = self._folder / name, time.monotonic(), spent()
    is_new = not path.exists()
    made = make(path)
    if is_new:
      more, kept = (now - then for now, then in zip(spent(), before, strict=True))
      seconds = time.monotonic() - started + kept
      entry = budgets.entry(
        "data", name, flops=flops + more, seconds=seconds, devices=preparing_mesh(self._config).size
      )
      text = json.dumps(dataclasses.asdict(entry))
      artifact.write_text(self._folder / "ledger" / f"{name.replace('/', '-')}.json", text)
    return made

  def _documents(self, name: str) -> documents.Documents:
    data = self._data
    sources = data.generic if name == "generic" else data.domains[name]
    most = data.max_generic_bytes if name == "generic" else data.max_domain_bytes
    return self._booked(
      f"documents/{name}", lambda path: documents.prepare(name, sources, data, path, most)
    )

  def _embed(self, name: str, docs: documents.Documents, split: str = "train") -> np.ndarray:
    return self._booked(
      f"{'' if split == 'train' else f'{split}_'}embeddings/{name}",
      lambda path: embed.embed_documents(self._embedder, docs, split, path),
      spent=lambda: (self._embedder.flops, self._embedder.kept_seconds),
    )

  def _store(
    self, name: str, docs: documents.Documents, vectors: np.ndarray, by_leaf: bool
  ) -> store.Store:
    def build(path: Path) -> store.Store:
      return rows.build(
        docs,
        "train",
        clusters.assign(vectors, self.tree.centroids),
        self.tree.n_leaves,
        self.tokenizer,
        self._config.sequence_length,
        path,
        clusters=self.tree.hash,
        seed=self._config.seed,
        by_leaf=by_leaf,
      )

    return self._booked(f"train/{name}", build)

  def _windows(
    self, name: str, docs: documents.Documents, split: str, **layout: Any
  ) -> store.Store:
    data, length = self._data, self._config.sequence_length
    most = data.max_generic_evaluation_tokens if name == "generic" else data.max_evaluation_tokens
    return self._booked(
      f"{split}/{name}",
      lambda path: rows.build_windows(
        docs, split, self.tokenizer, length, path, max_tokens=most, **layout
      ),
    )

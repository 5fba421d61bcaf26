"""Documents -> unit vectors, by which they are clustered.

An embedder is one class: to add one, write it in a file of its own and name it in EMBEDDERS.
Dimensions: n texts (N documents of a split), D features of an embedding.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from specialization import artifact
from specialization.config import ClustersConfig
from specialization.data.documents import Documents
from specialization.data.sentence import SentenceEmbedder
from specialization.errors import UserError
from specialization.metrics import progress
from specialization.strict import one_of

_TEXTS = 4096  # that are embedded in one go: of more, those of like length go better together


@runtime_checkable
class Embedder(Protocol):
  dimensions: int  # D
  hash: str  # of everything that its vectors depend on
  flops: float  # model FLOPs that its vectors took so far
  kept_seconds: float  # that those vectors took which an earlier, cut off run left

  @classmethod
  def prepare(
    cls, documents: Documents, config: ClustersConfig, folder: Path, seed: int, mesh: Mesh
  ) -> "Embedder":
    """Returns the embedder, made unless its artifact is there.

    Args:
      documents: the generic ones, to fit it on.
      config: its sizes.
      folder: the artifact.
      seed: of a fit.
      mesh: to compute on.
    """
    ...

  def embed(
    self, texts: Sequence[str], tell: Callable[[int], object] = lambda _: None
  ) -> Float32[np.ndarray, "n D"]:
    """Returns one vector of length 1 for each text; tells each time how many more are done."""
    ...


class TfidfEmbedder(Embedder):
  """Word counts (1 + log n, times inverse document frequency) projected by truncated SVD."""

  def __init__(
    self,
    words: list[str],
    idf: Float32[np.ndarray, "V"],
    components: Float32[np.ndarray, "D V"],
    hash: str = "",
  ):
    """
    Args:
      words: the vocabulary, in the order of the features.
      idf: inverse document frequency of each word.
      components: right singular vectors of the documents' TF-IDF matrix.
      hash: see Embedder.
    """
    self.dimensions, self.hash, self.flops = len(components), hash, 0.0
    self.kept_seconds = 0.0
    self._words, self._idf, self._components = words, idf, components
    self._counter = _vectorizer(vocabulary=words)
    self._counter.idf_ = idf
    self._projection = np.ascontiguousarray(components.T)

  @classmethod
  def prepare(
    cls, documents: Documents, config: ClustersConfig, folder: Path, seed: int, mesh: Mesh
  ) -> "TfidfEmbedder":
    """See Embedder; it is fitted on config.fit_documents documents, and computes on the host.

    Raises:
      UserError: as `fit`; or the artifact was made from something else.
    """
    made_from = {
      "documents": documents.hash,
      "embedder": config.embedder,
      "dimensions": config.dimensions,
      "features": config.features,
      "fit_documents": config.fit_documents,
      "seed": seed,
    }
    if not artifact.exists(folder, made_from):
      n_texts = min(config.fit_documents, documents.count("train"))
      with artifact.create(folder, made_from) as temporary:
        texts = _evenly(documents, "train", n_texts)
        cls.fit(texts, n_texts, config, seed).save(temporary)
    return cls.load(folder)

  @classmethod
  def fit(
    cls, texts: Iterator[str], n_texts: int, config: ClustersConfig, seed: int
  ) -> "TfidfEmbedder":
    """Returns an embedder fitted on n_texts texts; its hash is not set.

    Raises:
      UserError: the texts have fewer documents or words than the embedding has dimensions.
    """
    counter = _vectorizer(max_features=config.features)
    try:
      counts = counter.fit_transform(texts)
    except ValueError as error:
      raise UserError(
        f"The {n_texts} generic documents that the embedder is fitted on hold no words: check"
        " data.generic and data.text_field."
      ) from error
    if min(counts.shape) < config.dimensions:
      raise UserError(
        f"The embedder is fitted on {counts.shape[0]} documents with {counts.shape[1]} different"
        f" words, too few for clusters.dimensions={config.dimensions}: lower it to at most"
        f" {min(counts.shape)}, or add generic text."
      )
    svd = TruncatedSVD(config.dimensions, random_state=seed).fit(counts)
    words = counter.get_feature_names_out().tolist()
    return cls(words, counter.idf_.astype(np.float32), svd.components_.astype(np.float32))

  def save(self, folder: Path) -> None:
    (folder / "words.json").write_text(json.dumps(self._words, ensure_ascii=False))
    np.savez(folder / "projection.npz", idf=self._idf, components=self._components)

  @classmethod
  def load(cls, folder: Path) -> "TfidfEmbedder":
    words = json.loads((folder / "words.json").read_text())
    with np.load(folder / "projection.npz") as arrays:
      idf, components = arrays["idf"], arrays["components"]
    return cls(words, idf, components, artifact.fingerprint(artifact.made_from(folder)))

  def embed(
    self, texts: Sequence[str], tell: Callable[[int], object] = lambda _: None
  ) -> Float32[np.ndarray, "n D"]:
    """See Embedder; a text without a known word gets the first axis, the average document's."""
    vectors = np.asarray(self._counter.transform(texts) @ self._projection, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[length[:, 0] == 0, 0] = 1.0
    tell(len(texts))
    return vectors / np.where(length == 0, 1.0, length)


def _vectorizer(**options: list[str] | int) -> TfidfVectorizer:
  return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **options)


EMBEDDERS: dict[str, type[Embedder]] = {"tfidf": TfidfEmbedder, "sentence_bert": SentenceEmbedder}


def prepare(
  documents: Documents, config: ClustersConfig, folder: Path, seed: int, mesh: Mesh
) -> Embedder:
  """Returns the embedder that config.embedder names; see Embedder.prepare.

  Raises:
    UserError: an unknown embedder, or as its own `prepare`.
  """
  one_of("clusters.embedder", config.embedder, tuple(EMBEDDERS))
  return EMBEDDERS[config.embedder].prepare(documents, config, folder, seed, mesh)


def _evenly(documents: Documents, split: str, n_texts: int) -> Iterator[str]:
  """Yields n_texts documents, equally far from each other."""
  total, index, taken = documents.count(split), 0, 0
  with progress(n_texts, "fit embedder", "document") as bar:
    for texts in documents.batches(split):
      for text in texts:
        if taken < n_texts and index == taken * total // n_texts:
          taken += 1
          bar.update()
          yield text
        index += 1


def embed_documents(
  embedder: Embedder, documents: Documents, split: str, folder: Path
) -> Float32[np.ndarray, "N D"]:
  """Returns the embedding of every document of a split, memory-mapped, computed only once.

  A run that was cut off leaves its vectors beside the artifact, for the next one to go on from.

  Args:
    embedder: as `prepare` returns it.
    documents: of any source.
    split: train, validation or test.
    folder: the artifact.

  Raises:
    UserError: the artifact was made from other documents or by another embedder.
  """
  made_from = {"documents": documents.hash, "split": split, "embedder": embedder.hash}
  if not artifact.exists(folder, made_from):
    parts = folder.with_name(f".{folder.name}.{artifact.fingerprint(made_from)}")
    _embed_parts(embedder, documents, split, parts)
    with artifact.create(folder, made_from) as temporary:
      shape = (documents.count(split), embedder.dimensions)
      vectors = np.lib.format.open_memmap(temporary / "vectors.npy", "w+", np.float32, shape)
      done = 0
      for path in sorted(parts.glob("*.npz")):
        with np.load(path) as part:
          vectors[done : done + len(part["vectors"])] = part["vectors"]
          done += len(part["vectors"])
      vectors.flush()
    shutil.rmtree(parts, ignore_errors=True)
  return np.load(folder / "vectors.npy", mmap_mode="r")


def _embed_parts(embedder: Embedder, documents: Documents, split: str, folder: Path) -> None:
  """Writes the vectors of every _TEXTS documents, with what they took, unless they are there."""
  folder.mkdir(parents=True, exist_ok=True)
  with progress(documents.count(split), f"embed {split}", "document") as bar:
    for number, texts in enumerate(documents.batches(split, _TEXTS)):
      path = folder / f"{number:08}.npz"
      if path.exists():
        with np.load(path) as part:
          embedder.flops += float(part["flops"])
          embedder.kept_seconds += float(part["seconds"])
        bar.update(len(texts))
        continue
      started, before = time.monotonic(), embedder.flops
      vectors = embedder.embed(texts, bar.update)
      seconds, flops = time.monotonic() - started, embedder.flops - before
      unfinished = path.with_suffix(".unfinished")
      with unfinished.open("wb") as file:
        np.savez(file, vectors=vectors, seconds=seconds, flops=flops)
      unfinished.rename(path)

"""Documents -> unit vectors, by which they are clustered.

An embedder is one class: to add one, write it in a file of its own and name it in EMBEDDERS.
Dimensions: n texts (N documents of a split), D features of an embedding.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from specialization import artifact
from specialization.config import ClustersConfig, one_of
from specialization.data.documents import Documents
from specialization.errors import UserError
from specialization.metrics import progress


@runtime_checkable
class Embedder(Protocol):
  dimensions: int  # D
  hash: str  # of everything that its vectors depend on

  @classmethod
  def fit(cls, texts: Iterator[str], n_texts: int, config: ClustersConfig, seed: int) -> "Embedder":
    """Returns an embedder fitted on n_texts texts; its hash is not set."""
    ...

  def save(self, folder: Path) -> None: ...

  @classmethod
  def load(cls, folder: Path) -> "Embedder":
    """Returns the embedder that `save` wrote and `prepare` made an artifact."""
    ...

  def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
    """Returns one vector of length 1 for each text."""
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
    self.dimensions, self.hash = len(components), hash
    self._words, self._idf, self._components = words, idf, components
    self._counter = _vectorizer(vocabulary=words)
    self._counter.idf_ = idf
    self._projection = np.ascontiguousarray(components.T)

  @classmethod
  def fit(
    cls, texts: Iterator[str], n_texts: int, config: ClustersConfig, seed: int
  ) -> "TfidfEmbedder":
    """See Embedder.

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

  def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
    """See Embedder; a text without a known word gets the first axis, the average document's."""
    vectors = np.asarray(self._counter.transform(texts) @ self._projection, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[length[:, 0] == 0, 0] = 1.0
    return vectors / np.where(length == 0, 1.0, length)


def _vectorizer(**options: list[str] | int) -> TfidfVectorizer:
  return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **options)


EMBEDDERS: dict[str, type[Embedder]] = {"tfidf": TfidfEmbedder}


def prepare(documents: Documents, config: ClustersConfig, folder: Path, seed: int) -> Embedder:
  """Returns the embedder of the generic training text, fitted unless the artifact is there.

  Args:
    documents: the generic documents.
    config: which embedder, and its sizes.
    folder: the artifact.
    seed: of the fit.

  Raises:
    UserError: an unknown embedder, too little text, or an artifact made from something else.
  """
  one_of("clusters.embedder", config.embedder, tuple(EMBEDDERS))
  kind = EMBEDDERS[config.embedder]
  fields = ("embedder", "dimensions", "features", "fit_documents")
  made_from = {
    "documents": documents.hash,
    **{field: getattr(config, field) for field in fields},
    "seed": seed,
  }
  if not artifact.exists(folder, made_from):
    n_texts = min(config.fit_documents, documents.count("train"))
    with artifact.create(folder, made_from) as temporary:
      texts = _evenly(documents, "train", n_texts)
      kind.fit(texts, n_texts, config, seed).save(temporary)
  return kind.load(folder)


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
    total = documents.count(split)
    with (
      artifact.create(folder, made_from) as temporary,
      progress(total, f"embed {split}", "document") as bar,
    ):
      vectors = np.lib.format.open_memmap(
        temporary / "vectors.npy", "w+", np.float32, (total, embedder.dimensions)
      )
      done = 0
      for texts in documents.batches(split):
        vectors[done : done + len(texts)] = embedder.embed(texts)
        done += len(texts)
        bar.update(len(texts))
      vectors.flush()
  return np.load(folder / "vectors.npy", mmap_mode="r")

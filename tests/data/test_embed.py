"""TF-IDF embeddings: against scikit-learn, unit length, kept on disk, streamed."""

import time

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

import tiny
from specialization import artifact, metrics
from specialization.config import ClustersConfig
from specialization.data import embed
from specialization.data.documents import Documents
from specialization.errors import UserError

TOPICS = [[f"{topic}{word}" for word in "abcdefghijklmnop"] for topic in ("sea", "law", "art")]


class Texts(Documents):
  hash = "texts"

  def __init__(self, texts):
    self.all, self.read = texts, 0

  def count(self, split):
    return len(self.all)

  def batches(self, split, size=1000):
    for start in range(0, len(self.all), 7):
      self.read += 1
      yield self.all[start : start + 7]


def make_texts(n=90, seed=0):
  rng = np.random.default_rng(seed)
  return [
    " ".join(rng.choice([*TOPICS[i % 3], "common", "words"], 30)) + f" Number{i}" for i in range(n)
  ]


def config(**changes):
  fields = dict(
    embedder="tfidf",
    dimensions=6,
    features=60,
    encoder="",
    max_length=1,
    fit_documents=1000,
    levels=(2,),
    iterations=5,
  )
  return ClustersConfig(**(fields | changes))


def prepare(documents, folder, seed=0, **changes):
  return embed.prepare(documents, config(**changes), folder, seed, tiny.mesh())


def test_equals_scikit_learn(tmp_path):
  texts = make_texts()
  embedder = prepare(Texts(texts), tmp_path / "embedder", seed=3)
  counts = TfidfVectorizer(max_features=60, sublinear_tf=True)
  svd = TruncatedSVD(6, random_state=3).fit(counts.fit_transform(texts))
  new = make_texts(20, seed=1)
  wanted = normalize(svd.transform(counts.transform(new)))
  assert embedder.dimensions == 6
  assert np.abs(embedder.embed(new) - wanted).max() < 1e-4


def test_rows_have_unit_length_and_topics_part(tmp_path):
  embedder = prepare(Texts(make_texts()), tmp_path / "embedder")
  vectors = embedder.embed([*make_texts(30, seed=2), "", "unheard"])
  assert vectors.dtype == np.float32
  assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
  likeness = vectors[:30] @ vectors[:30].T
  same = np.arange(30)[:, None] % 3 == np.arange(30) % 3
  assert likeness[same].min() > likeness[~same].max()
  # No known word: the average document, not a vector of zeros or not-a-number.
  assert vectors[30].tolist() == vectors[31].tolist() == [1, 0, 0, 0, 0, 0]
  assert vectors[:30, 0].mean() > 0.5


def test_is_fitted_on_documents_from_all_over(tmp_path):
  texts = [f"word{i} common" for i in range(100)]
  documents = Texts(texts)
  embedder = prepare(documents, tmp_path / "embedder", fit_documents=10)
  embedder.save(tmp_path)
  words = {word for word in (tmp_path / "words.json").read_text().split('"') if "word" in word}
  assert words == {f"word{i}" for i in range(0, 100, 10)}


def test_is_kept_without_pickle_and_refused_for_other_text(tmp_path, monkeypatch):
  documents, folder = Texts(make_texts()), tmp_path / "embedder"
  first = prepare(documents, folder)
  monkeypatch.setattr(embed.TfidfEmbedder, "fit", None)
  again = prepare(documents, folder)
  assert again.hash == first.hash != ""
  assert np.array_equal(again.embed(documents.all), first.embed(documents.all))
  assert artifact.made_from(folder)["documents"] == "texts"
  with np.load(folder / "projection.npz", allow_pickle=False) as arrays:
    assert arrays["components"].shape == (6, len(arrays["idf"]))
  with pytest.raises(UserError, match="dimensions=6"):
    prepare(documents, folder, dimensions=5)


def test_loads_in_a_fraction_of_a_second(tmp_path):
  words = [f"w{i}" for i in range(20_000)]
  components = np.ones((64, 20_000), np.float32)
  embed.TfidfEmbedder(words, components[0], components).save(tmp_path)
  with artifact.create(tmp_path / "artifact", {}) as folder:
    embed.TfidfEmbedder(words, components[0], components).save(folder)
  start = time.perf_counter()
  embed.TfidfEmbedder.load(tmp_path / "artifact").embed(["w1 w2"])
  assert time.perf_counter() - start < 0.5


def test_embed_documents_streams_once(tmp_path):
  documents = Texts(make_texts())
  embedder = prepare(documents, tmp_path / "embedder")
  documents.read = 0
  vectors = embed.embed_documents(embedder, documents, "train", tmp_path / "vectors")
  assert documents.read == 13
  assert isinstance(vectors, np.memmap)
  assert np.abs(vectors - embedder.embed(documents.all)).max() < 1e-6
  again = embed.embed_documents(embedder, documents, "train", tmp_path / "vectors")
  assert documents.read == 13
  assert np.array_equal(again, vectors)
  with pytest.raises(UserError, match="split"):
    embed.embed_documents(embedder, documents, "test", tmp_path / "vectors")


def test_a_cut_off_run_is_gone_on_with(tmp_path, monkeypatch):
  documents = Texts(make_texts(35))
  embedder = prepare(documents, tmp_path / "embedder")
  whole = embed.embed_documents(embedder, documents, "train", tmp_path / "whole")
  real, calls = embedder.embed, []

  def counted(texts, tell):
    calls.append(len(texts))
    if len(calls) == 3:
      raise KeyboardInterrupt
    embedder.flops += len(texts)
    return real(texts, tell)

  monkeypatch.setattr(embedder, "embed", counted)
  with pytest.raises(KeyboardInterrupt):
    embed.embed_documents(embedder, documents, "train", tmp_path / "vectors")
  embedder.flops = 0.0
  vectors = embed.embed_documents(embedder, documents, "train", tmp_path / "vectors")
  assert len(calls) == 3 + 3  # of five batches
  np.testing.assert_array_equal(vectors, whole)
  assert embedder.flops == 35
  assert embedder.kept_seconds > 0
  assert {path.name for path in tmp_path.iterdir()} == {"embedder", "whole", "vectors"}


def test_progress_counts_every_document(tmp_path, monkeypatch):
  bars = []

  def progress(*arguments):
    bars.append(metrics.progress(*arguments))
    return bars[-1]

  monkeypatch.setattr(embed, "progress", progress)
  documents = Texts(make_texts())
  embedder = prepare(documents, tmp_path / "embedder")
  embed.embed_documents(embedder, documents, "train", tmp_path / "vectors")
  assert [(bar.n, bar.total) for bar in bars] == [(90, 90)] * 2  # fitted on, embedded


def test_too_little_text_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"4 documents with .* clusters\.dimensions=6"):
    prepare(Texts(make_texts(4)), tmp_path / "embedder")
  with pytest.raises(UserError, match="no words"):
    prepare(Texts(["", "?"]), tmp_path / "embedder")
  assert not (tmp_path / "embedder").exists()


def test_an_unknown_embedder_is_refused(tmp_path):
  with pytest.raises(UserError, match="did you mean 'tfidf'"):
    prepare(Texts(make_texts()), tmp_path / "embedder", embedder="tfidff")

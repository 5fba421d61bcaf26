"""Exported models by their real readers: the same logits, tokens, text and perplexity."""

import functools
import random
from unittest import mock

import jax
import lm_eval.api.instance
import lm_eval.models.huggingface
import numpy as np
import pytest
import torch
import transformers

import packages
import strings
import tiny
from specialization.data import rows as data_rows
from specialization.data.documents import Documents
from specialization.data.store import Rolling
from specialization.data.tokenizer import Tokenizer
from specialization.export import FORMATS, check
from specialization.generate import Sampling, draw
from specialization.phases import generate

pytestmark = pytest.mark.oracle

CHANGES = [
  {"n_kv_heads": 4},
  {"n_kv_heads": 2},
  {"n_kv_heads": 1, "tie_embeddings": False, "rope_theta": 500_000.0},
  {"rope_theta": 300.0, "rope_scaling": (8.0, 1.0, 4.0, 64.0)},
]


@functools.cache
def small(name, changes):
  """Returns a transformer and what a family materializes."""
  of = tiny.family(name, over=packages.transformer(**dict(changes)))
  params = packages.perturbed(of.init(jax.random.key(0)))
  mixture = jax.random.dirichlet(jax.random.key(1), np.ones(of.clusters))
  return of.transformer, of.materialize(params, mixture)


def written(folder, kind, dtype="", name="dense", changes=()):
  """Returns a model, its parameters and package, written in a format to `out` of a folder."""
  of, params = small(name, tuple(dict(changes).items()))
  package, out = packages.package(of, params, folder), folder / "out"
  out.mkdir()
  FORMATS[kind].write(package, out, dtype or FORMATS[kind].dtypes[0])
  return of, params, package, out


def odd_tokens():
  rng = np.random.default_rng(0)
  yield rng.integers(0, packages.VOCAB, (3, 30), np.int32)
  yield np.zeros((1, 9), np.int32)
  yield np.full((2, 1), packages.VOCAB - 1, np.int32)


@pytest.mark.parametrize("name", tiny.FAMILIES)
@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("kind", ["hf", "mlx"])
def test_logits_are_the_same(tmp_path, kind, name, changes):
  of, params, _, out = written(tmp_path, kind, name=name, changes=changes)
  theirs = FORMATS[kind].read(out).logits
  for tokens in odd_tokens():
    found = theirs(tokens)
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(packages.logits(of, params, tokens), found, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "q8", "q4"])
def test_mlx_has_the_parameters_that_the_files_have(tmp_path, dtype):
  of, _, _, out = written(tmp_path, "mlx", dtype)
  back = jax.tree.map(jax.numpy.asarray, FORMATS["mlx"].weights(out, of.config))
  theirs = FORMATS["mlx"].read(out).logits
  for tokens in odd_tokens():
    ours = packages.logits(of, back, tokens)
    np.testing.assert_allclose(theirs(tokens), ours, atol=1e-4, rtol=0)


def test_transformers_finds_the_same_tokens(tmp_path):
  _, _, package, out = written(tmp_path, "hf")
  theirs, ours = transformers.AutoTokenizer.from_pretrained(out), Tokenizer(tmp_path)
  found = list(strings.odd(" ".join(packages.TEXT).split(" ")))
  for text, ids in zip(found, ours.encode_batch(found), strict=True):
    assert theirs(text).input_ids == [package.end, *ids.tolist()], repr(text)
    assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text
  assert theirs.eos_token_id == theirs.bos_token_id == package.end
  assert len(theirs) == packages.VOCAB


def prompts():
  rng = random.Random(1)
  words = [word for text in packages.TEXT for word in text.split()]
  return [" ".join(rng.choices(words, k=rng.randrange(1, 4))) for _ in range(200)]


def test_the_likeliest_text_is_that_of_transformers(tmp_path):
  _, _, package, out = written(tmp_path, "hf")
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
  ours = generate.load(out)
  some = [p for p in prompts() if len(tokenizer(p).input_ids) <= packages.LENGTH - 12][:50]
  assert len(some) == 50
  found = ours.generate(some, 12)
  for prompt, text in zip(some, found, strict=True):
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
      whole = theirs.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    whole = whole[: whole.index(package.end)] if package.end in whole else whole
    assert ours.tokenizer.decode(whole) == text, prompt
  assert len(set(found)) > 20


class Named(Tokenizer):
  hash = "tokenizer"


def test_perplexity_is_that_of_lm_eval(tmp_path):
  """Of documents shorter than what the model looks at, of as much, and of several times as much."""
  of, params, _, out = written(tmp_path, "hf")
  ours = Named(tmp_path)
  ids = ours.encode_batch([" ".join(packages.TEXT)])[0]
  documents = ["x", *packages.TEXT, *(ours.decode(ids[:n]) for n in (31, 32, 33, 64, 65))]
  task = lm_eval.models.huggingface.HFLM(
    pretrained=str(out),
    device="cpu",
    dtype="float32",
    max_length=packages.LENGTH,
    add_bos_token=False,  # lm-eval puts it before a text itself, and else would also predict it
  )
  requests = [rolling(text) for text in documents]
  wanted = -sum(task.loglikelihood_rolling(requests, disable_tqdm=True))
  texts = mock.Mock(spec=Documents, hash="texts")
  texts.count.return_value, texts.batches.return_value = len(documents), [documents]
  data_rows.build_windows(texts, "test", ours, packages.LENGTH, tmp_path / "test", max_tokens=0)
  windows = Rolling(tmp_path / "test")
  everything = np.arange(windows.n_rows)
  rows, mask = windows.rows(everything), windows.mask(everything)
  found = check.nats(lambda x: packages.logits(of, params, x), rows, mask)
  assert mask.sum() == windows.n_tokens > 5 * packages.LENGTH
  assert found * windows.n_tokens == pytest.approx(wanted, rel=1e-6)


def rolling(text):
  return lm_eval.api.instance.Instance("loglikelihood_rolling", {}, (text,), 0)


def test_drawn_text_is_drawn_as_transformers_draws(tmp_path):
  """The shares of next tokens, after the same temperature, top-k and top-p."""
  of, params, package, _ = written(tmp_path, "hf")
  ids = [package.end, 5, 6, 7]
  warpers = transformers.LogitsProcessorList(
    [
      transformers.TemperatureLogitsWarper(0.7),
      transformers.TopKLogitsWarper(40),
      transformers.TopPLogitsWarper(0.8),
    ]
  )
  logits = packages.logits(of, params, np.array([ids], np.int32))[:, -1]
  wanted = torch.softmax(warpers(torch.tensor([ids]), torch.tensor(logits)), -1)[0].numpy()
  draws = 20_000
  keys = jax.random.split(jax.random.key(0), draws)
  found = draw(jax.numpy.asarray(np.repeat(logits, draws, axis=0)), keys, Sampling(0.7, 40, 0.8))
  shares = np.bincount(found, minlength=packages.VOCAB) / draws
  assert np.all((shares > 0) <= (wanted > 0))
  np.testing.assert_allclose(shares, wanted, atol=0.015)

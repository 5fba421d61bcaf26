"""The tokenizer: every text comes back, no text ends a document, and training is repeatable."""

import json
import pickle
import random

import numpy as np
import pytest

from specialization.config import DomainConfig, TokenizerConfig
from specialization.data import documents
from specialization.data import tokenizer as tokenizer_module
from specialization.data.tokenizer import END_OF_DOCUMENT, Tokenizer, prepare
from specialization.errors import UserError
from text_files import DATA


def texts(seed=0):
  rng = random.Random(seed)
  words = ["".join(rng.choices("etaoinshrdlu", k=rng.randrange(2, 9))) for _ in range(400)]
  return [" ".join(rng.choices(words, k=80)) + ".\n" for _ in range(100)]


SMALL = TokenizerConfig(vocab_size=274, train_bytes=1_000_000, file="")
CONFIG = TokenizerConfig(vocab_size=500, train_bytes=1_000_000, file="")


def store(folder, train):
  (folder / "in").mkdir(parents=True, exist_ok=True)
  for split, found in (("train", train), ("test", ["test"])):
    lines = "\n".join(json.dumps({"text": text}) for text in found)
    (folder / "in" / f"{split}.jsonl").write_text(lines)
  sources = DomainConfig((str(folder / "in/train.jsonl"),), (), (str(folder / "in/test.jsonl"),))
  return documents.prepare("generic", sources, DATA, folder / "documents", 0)


@pytest.fixture(scope="module")
def generic(tmp_path_factory):
  return store(tmp_path_factory.mktemp("generic"), texts())


@pytest.fixture(scope="module")
def tokenizer(generic, tmp_path_factory):
  return prepare(generic, CONFIG, tmp_path_factory.mktemp("t") / "tokenizer")


def test_a_given_file_is_taken_as_it_is(generic, tokenizer, tmp_path):
  file = tmp_path / "given.json"
  source = tokenizer.__reduce__()[1][0] / "tokenizer.json"
  file.write_text(source.read_text())
  given = TokenizerConfig(500, 1, str(file))
  found = prepare(generic, given, tmp_path / "t")
  assert (
    found.encode_batch(["a ship"])[0].tolist() == tokenizer.encode_batch(["a ship"])[0].tolist()
  )
  assert prepare(generic, given, tmp_path / "t").hash == found.hash
  with pytest.raises(UserError, match=r"has 500 entries: set tokenizer\.vocab_size=501 to that"):
    prepare(generic, TokenizerConfig(501, 1, str(file)), tmp_path / "u")
  with pytest.raises(UserError, match=r"is no tokenizer\.json that can be read"):
    prepare(generic, TokenizerConfig(500, 1, str(tmp_path / "none.json")), tmp_path / "u")
  file.write_text(source.read_text().replace(END_OF_DOCUMENT, "</s>"))
  with pytest.raises(UserError, match=r"has no token <\|endoftext\|>, and tokenizer_config\.json"):
    prepare(generic, given, tmp_path / "u")


def unicode_texts():
  rng = random.Random(1)
  points = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000]
  return ["".join(map(chr, rng.choices(points, k=200))) for _ in range(50)]


CASES = [
  "",
  " ",
  "\x00\ufeff\ufffd",
  "  two  spaces\r\n\t",
  "naïve e\u0301 漢字 🙂‍↔️",
  "\u00a0\u2028x",
]


@pytest.mark.parametrize("text", [*CASES, *texts()[:3], *unicode_texts()[:5]])
def test_round_trip(tokenizer, text):
  (ids,) = tokenizer.encode_batch([text])
  assert ids.dtype == np.uint32
  assert tokenizer.decode(ids) == text


def test_round_trip_of_every_character(tokenizer):
  everything = unicode_texts() + [
    "".join(chr(p) for p in range(i, i + 256)) for i in range(0, 0xD800, 256)
  ]
  assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(everything)] == everything


def test_sequences_that_are_not_utf8(tokenizer):
  (ids,) = tokenizer.encode_batch(["漢"])
  assert len(ids) == 3
  assert "\ufffd" in tokenizer.decode(ids[:2])
  assert "\ufffd" in tokenizer.decode(ids[1:])
  rng = np.random.default_rng(0)
  for _ in range(50):
    text = tokenizer.decode(rng.integers(0, tokenizer.vocab_size, 100))
    text.encode()


def test_end_of_document(tokenizer):
  assert tokenizer.end_of_document == 0
  assert tokenizer.decode([0]) == END_OF_DOCUMENT


@pytest.mark.parametrize("copy", [lambda t: t, lambda t: pickle.loads(pickle.dumps(t))])
def test_text_that_spells_the_end_of_document(tokenizer, copy):
  tokenizer = copy(tokenizer)
  text = f"a{END_OF_DOCUMENT}b {END_OF_DOCUMENT}"
  (ids,) = tokenizer.encode_batch([text])
  assert 0 not in ids
  assert tokenizer.decode(ids) == text


def test_file(tokenizer):
  stored = json.loads((tokenizer._folder / "tokenizer.json").read_text())
  assert stored["pre_tokenizer"]["type"] == "ByteLevel"
  assert stored["pre_tokenizer"]["use_regex"] is True
  assert stored["pre_tokenizer"]["add_prefix_space"] is False
  assert stored["normalizer"] is None
  vocabulary = stored["model"]["vocab"]
  assert sorted(vocabulary.values()) == list(range(CONFIG.vocab_size))
  assert vocabulary[END_OF_DOCUMENT] == 0
  assert tokenizer.vocab_size == CONFIG.vocab_size


def test_pre_tokenization_is_that_of_gpt2(tmp_path):
  """With all merges that there are, tokens are what GPT-2's pattern separates."""
  trained = prepare(
    store(tmp_path, ["the cat's 1234!? end\n\nfin  x "] * 99), SMALL, tmp_path / "t"
  )
  (ids,) = trained.encode_batch(["the cat's 1234!? end\n\nfin  x"])
  found = [trained.decode([int(i)]) for i in ids]
  assert found == ["the", " cat", "'s", " 1234", "!?", " end", "\n", "\n", "fin", " ", " x"]


@pytest.mark.parametrize("parallel", ["true", "false"])
def test_training_is_repeatable(generic, tokenizer, tmp_path, monkeypatch, parallel):
  monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
  again = prepare(generic, CONFIG, tmp_path / "tokenizer")
  files = [each._folder / "tokenizer.json" for each in (tokenizer, again)]
  assert files[0].read_bytes() == files[1].read_bytes()
  assert tokenizer.hash == again.hash


@pytest.mark.parametrize("share", [0.1, 0.5, 3.0])
def test_sample_is_spread_evenly(generic, share):
  total = generic.bytes("train")
  wanted = int(share * total)
  chosen = [text for batch in tokenizer_module._sample(generic, wanted) for text in batch]
  size = sum(len(text.encode()) for text in chosen)
  assert min(share, 1.0) * total * 0.95 - 1000 < size <= wanted
  places = [texts().index(text) for text in chosen]
  assert np.mean(places) == pytest.approx(49.5, abs=8)
  assert places == sorted(places)


def test_text_that_is_too_little(tmp_path):
  with pytest.raises(UserError, match=r"yields only \d+ of tokenizer.vocab_size=5000"):
    prepare(
      store(tmp_path, ["too little text"]), TokenizerConfig(5000, 1_000_000, ""), tmp_path / "t"
    )
  assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("vocab_size", [0, 256])
def test_vocabulary_without_room_for_all_bytes(generic, tmp_path, vocab_size):
  with pytest.raises(UserError, match="must be at least 257"):
    prepare(generic, TokenizerConfig(vocab_size, 1000, ""), tmp_path / "t")


def test_smallest_vocabulary(generic, tmp_path):
  smallest = prepare(generic, TokenizerConfig(257, 1000, ""), tmp_path / "t")
  (ids,) = smallest.encode_batch(["ö漢"])
  assert (smallest.vocab_size, len(ids)) == (257, 5)


def test_made_from(generic, tmp_path):
  prepare(generic, CONFIG, tmp_path / "t")
  with pytest.raises(UserError, match="train_bytes"):
    prepare(generic, TokenizerConfig(500, 1234, ""), tmp_path / "t")
  with pytest.raises(UserError, match=r"documents='\w{16}', but"):
    prepare(store(tmp_path, texts()[1:]), CONFIG, tmp_path / "t")


def test_missing(tmp_path):
  with pytest.raises(UserError, match=r"There is no tokenizer\.json in"):
    Tokenizer(tmp_path)

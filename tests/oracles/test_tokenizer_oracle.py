"""transformers reads tokenizer.json as it stands and finds the same ids."""

import json
import random

import jax
import pytest
import transformers

import other_tokenizers
import packages
from specialization.config import DomainConfig, TokenizerConfig
from specialization.data import documents, tokenizer
from specialization.export import hf
from text_files import DATA


def texts():
  rng = random.Random(0)
  points = [*range(0x80), *range(0xD800), *range(0xE000, 0x110000)]
  words = ["".join(rng.choices("etaoinshrdlu'", k=rng.randrange(2, 9))) for _ in range(300)]
  prose = [" ".join(rng.choices(words, k=80)) + ".\n\n  42" for _ in range(60)]
  strange = ["".join(map(chr, rng.choices(points, k=200))) for _ in range(60)]
  return [*prose, *strange, "", " ", "naïve e\u0301 漢字 🙂", "\ufeff\x00\r\n\t  x"]


@pytest.mark.oracle
def test_transformers_finds_the_same_ids(tmp_path):
  for split in ("train", "test"):
    lines = [json.dumps({"text": text}) for text in [*texts(), split]]
    (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
  specs = [(str(tmp_path / f"{split}.jsonl"),) for split in ("train", "test")]
  sources = DomainConfig(specs[0], (), specs[1])
  generic = documents.prepare("generic", sources, DATA, tmp_path / "documents", 0)
  ours = tokenizer.prepare(generic, TokenizerConfig(500, 1_000_000, ""), tmp_path / "tokenizer")
  theirs = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(tmp_path / "tokenizer/tokenizer.json"), eos_token=tokenizer.END_OF_DOCUMENT
  )
  expected = [ids.tolist() for ids in ours.encode_batch(texts())]
  assert max(map(max, filter(None, expected))) > 300
  assert [theirs(text)["input_ids"] for text in texts()] == expected
  assert [theirs.decode(ids, clean_up_tokenization_spaces=False) for ids in expected] == texts()
  assert theirs.eos_token_id == ours.end_of_document
  assert len(theirs) == ours.vocab_size


@pytest.mark.oracle
def test_transformers_finds_the_same_ids_by_what_left_with_another_tokenizer(tmp_path):
  text = other_tokenizers.marked(texts()[:60], 500)
  other_tokenizers.write(tmp_path, text)
  ours, out = tokenizer.Tokenizer(tmp_path), tmp_path / "out"
  out.mkdir()
  of = packages.transformer()
  package = packages.package(
    of, packages.perturbed(of.initialize(jax.random.key(0))), tmp_path, text
  )
  hf.write(package, out, "float32")
  theirs = transformers.AutoTokenizer.from_pretrained(out)
  some = [*texts(), "a </s>b<s> "]
  expected = [[1, *ids.tolist()] for ids in ours.encode_batch(some)]
  assert [theirs(text)["input_ids"] for text in some] == expected
  generation = transformers.GenerationConfig.from_pretrained(out)
  assert theirs.bos_token_id == generation.bos_token_id == ours.begin_of_document == 1
  assert theirs.eos_token_id == ours.end_of_document == 2

"""GGUF has the tokenizer's kind by name, or for Llama 2's kind scores that give the same tokens."""

import itertools
import json

import gguf
import jax
import pytest

import other_tokenizers
import packages
import strings
from specialization.data.tokenizer import Tokenizer
from specialization.errors import UserError
from specialization.export import FORMATS
from specialization.export.gguf import FILE
from specialization.models import Transformer

WORDS = " ".join(packages.TEXT).split()


def written(folder, text):
  """Returns what the file says of a tokenizer, and that tokenizer."""
  other_tokenizers.write(folder, text)
  ours, of = Tokenizer(folder), packages.transformer()
  of = Transformer(of.config, ours.vocab_size, of.compute)
  package = packages.package(of, of.initialize(jax.random.key(0)), folder, text)
  (folder / "out").mkdir()
  FORMATS["gguf"].write(package, folder / "out", "f32")
  fields = gguf.GGUFReader(folder / "out" / FILE).fields
  prefix = "tokenizer.ggml."
  said = {n.removeprefix(prefix): f.contents() for n, f in fields.items() if n.startswith(prefix)}
  return said, ours


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe"])
def test_cuts_are_known_by_name(tmp_path, name):
  text = other_tokenizers.byte_level(packages.TEXT, packages.VOCAB, name)
  said, ours = written(tmp_path, text)
  assert (said["model"], said["pre"]) == ("gpt2", name)
  kinds = dict(zip(said["tokens"], said["token_type"], strict=True))
  control = gguf.TokenType.CONTROL
  assert {token for token, kind in kinds.items() if kind == control} == {"</s>", "<|user|>"}
  assert said["bos_token_id"] == said["eos_token_id"] == ours.end_of_document == 0
  merges = json.loads(text)["model"]["merges"]
  assert said["merges"] == [" ".join(pair) for pair in merges]


def joined(text, said):
  """Returns tokens as llama.cpp joins them (llama-vocab.cpp, llm_tokenizer_spm)."""
  ids = {token: i for i, token in enumerate(said["tokens"])}
  parts = list(text and f" {text}".replace(" ", other_tokenizers.MARK))
  while True:
    pairs = [(i, a + b) for i, (a, b) in enumerate(itertools.pairwise(parts))]
    known = [(-said["scores"][ids[pair]], i, pair) for i, pair in pairs if pair in ids]
    if not known:
      break
    _, i, pair = min(known)
    parts[i : i + 2] = [pair]
  rare = lambda part: [ids[f"<0x{byte:02X}>"] for byte in part.encode()]  # noqa: E731
  return [i for part in parts for i in ([ids[part]] if part in ids else rare(part))]


def test_scores_give_the_tokens_of_merges(tmp_path):
  said, ours = written(tmp_path, other_tokenizers.marked(packages.TEXT, 500))
  assert said["model"] == "llama"
  some = [*list(strings.odd(WORDS, 100))[:200], "a </s>b<s> <0x0A>", "  two", "", " "]
  for text, ids in zip(some, ours.encode_batch(some), strict=True):
    assert joined(text, said) == ids.tolist()
  kinds = [gguf.TokenType(kind).name for kind in said["token_type"]]
  assert kinds[:4] == ["CONTROL", "CONTROL", "CONTROL", "BYTE"]
  assert kinds.count("BYTE") == 256
  assert said["tokens"][said["unknown_token_id"]] == "<unk>"
  assert said["bos_token_id"] == ours.begin_of_document == 1
  assert said["eos_token_id"] == ours.end_of_document == 2


def with_merges_apart(found):
  merges = found["model"]["merges"]
  pairs = itertools.pairwise(map("".join, merges))
  merges.append(merges.pop(next(i for i, (token, other) in enumerate(pairs) if token == other)))


def with_a_word(found):
  word = {"id": packages.VOCAB, "content": "word", "special": False}
  found["added_tokens"].append(found["added_tokens"][0] | word)


def with_a_special_word(found):
  word = {"id": packages.VOCAB, "content": "pad"}
  found["added_tokens"].append(found["added_tokens"][0] | word)


def change(part, **fields):
  return lambda found: found.update({part: {**(found[part] or {}), **fields}})


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
LOWER = {"type": "Lowercase"}


@pytest.mark.parametrize(
  ("name", "alter"),
  [
    ("gpt-2", lambda found: found.update(pre_tokenizer=BYTES)),
    ("gpt-2", lambda found: found.update(pre_tokenizer=None)),
    ("gpt-2", lambda found: found.update(normalizer=LOWER)),
    ("gpt-2", change("model", ignore_merges=True)),
    ("gpt-2", change("model", dropout=0.1)),
    ("gpt-2", with_a_word),
    ("gpt-2", change("model", byte_fallback=True)),
    ("llama-bpe", change("model", ignore_merges=False)),
    ("llama-bpe", with_a_special_word),
    ("llama-bpe", lambda found: found["pre_tokenizer"]["pretokenizers"].pop()),
    ("marked", lambda found: found["model"]["merges"].pop(0)),
    ("marked", with_merges_apart),
    ("marked", lambda found: found["model"]["vocab"].update({"</s": 500})),
    ("marked", change("model", ignore_merges=True)),
    ("marked", change("model", byte_fallback=False)),
    ("marked", lambda found: found["normalizer"]["normalizers"].pop()),
    ("marked", lambda found: found.update(pre_tokenizer=BYTES)),
  ],
)
def test_what_llama_cpp_would_cut_otherwise_is_refused(tmp_path, name, alter):
  if name == "marked":
    found = json.loads(other_tokenizers.marked(packages.TEXT, 500))
  else:
    found = json.loads(other_tokenizers.byte_level(packages.TEXT, packages.VOCAB, name))
  alter(found)
  with pytest.raises(UserError, match=r"is of no kind that is known here to be llama\.cpp's too"):
    written(tmp_path, json.dumps(found))


def test_ids_with_a_hole_are_refused(tmp_path):
  found = json.loads(other_tokenizers.byte_level(packages.TEXT, packages.VOCAB, "gpt-2"))
  vocab = found["model"]["vocab"]
  vocab[max(vocab, key=vocab.__getitem__)] = 999
  with pytest.raises(UserError, match="has 320 tokens, whose ids are not 0 to 999: export hf"):
    written(tmp_path, json.dumps(found))


def test_the_file_may_leave_out_what_is_usual(tmp_path):
  found = json.loads(other_tokenizers.byte_level(packages.TEXT, packages.VOCAB, "gpt-2"))
  del found["model"]["type"], found["pre_tokenizer"]["use_regex"], found["normalizer"]
  assert written(tmp_path, json.dumps(found))[0]["pre"] == "gpt-2"


LLAMAS = (2, 4, 8, 5, 6, 12, 13, 10, 14, 3, 9, 7, 11, 15, 16, 1)


def with_runs(sizes):
  """Returns a tokenizer with tokens of so many spaces, merged in the order of left, then right."""
  found = json.loads(other_tokenizers.marked(packages.TEXT[:1], 400))
  vocab, merges = found["model"]["vocab"], found["model"]["merges"]
  runs = [other_tokenizers.MARK * n for n in sizes]
  for run in runs:
    vocab.setdefault(run, len(vocab))
  pairs = [[a, b] for a, b in itertools.product(runs, runs) if a + b in runs]
  found["model"]["merges"] = [*pairs, *(pair for pair in merges if pair not in pairs)]
  return json.dumps(found)


def test_runs_may_be_merged_apart_if_the_same_are_found(tmp_path):
  said, ours = written(tmp_path, with_runs(LLAMAS))
  for text in (" " * n + end for n in range(40) for end in ("", "a", "the")):
    assert joined(text, said) == ours.encode_batch([text])[0].tolist(), text


def test_runs_that_are_merged_otherwise_are_refused(tmp_path):
  with pytest.raises(UserError, match="is of no kind"):
    written(tmp_path, with_runs((1, *LLAMAS[:-1])))

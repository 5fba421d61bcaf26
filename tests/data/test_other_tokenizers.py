"""Tokenizers of other models: what ends a document is said beside them."""

import json
import pickle
from unittest import mock

import pytest
import tokenizers
from tokenizers import normalizers, processors

import other_tokenizers
import packages
import strings
from specialization import artifact
from specialization.config import TokenizerConfig
from specialization.data.documents import Documents
from specialization.data.tokenizer import END_OF_DOCUMENT, Tokenizer, prepare
from specialization.errors import UserError

VOCAB = 360


@pytest.fixture(scope="module")
def text():
  return other_tokenizers.marked(packages.TEXT, VOCAB)


def taken(file, folder):
  return prepare(mock.Mock(spec=Documents), TokenizerConfig(VOCAB, 1, str(file)), folder)


@pytest.mark.parametrize("spell", [str, lambda token: {"content": token, "lstrip": False}])
def test_what_is_around_a_document_is_said_beside(text, tmp_path, spell):
  file = other_tokenizers.write(tmp_path, text, spell("</s>"), spell("<s>"))
  made = taken(file, tmp_path / "made")
  for found in (made, taken(file, tmp_path / "made"), pickle.loads(pickle.dumps(made))):
    assert found.decode([found.end_of_document]) == "</s>"
    assert found.decode([found.begin_of_document]) == "<s>"
  assert made.digest == Tokenizer(tmp_path).digest
  made_from = artifact.made_from(tmp_path / "made")
  assert (made_from["begin"], made_from["end"]) == ("<s>", "</s>")


@pytest.mark.parametrize("begin", [None, "<no>", "</s>", 7])
def test_documents_begin_with_the_end_of_another_where_nothing_else_is_said(text, tmp_path, begin):
  made = taken(other_tokenizers.write(tmp_path, text, begin=begin), tmp_path / "made")
  assert made.begin_of_document == made.end_of_document == 2
  assert "begin" not in artifact.made_from(tmp_path / "made")


@pytest.mark.parametrize(
  ("puts", "adds", "begin"),
  [
    ("<s> $A </s>", None, "<s>"),
    ("$A <s>", None, "</s>"),
    ("", None, "</s>"),
    ("<s> $A", False, "</s>"),
    ("", True, "<s>"),
  ],
)
def test_documents_begin_with_what_the_tokenizer_puts_before_texts(
  text, tmp_path, puts, adds, begin
):
  found = tokenizers.Tokenizer.from_str(text)
  if puts:
    found.post_processor = processors.TemplateProcessing(
      single=puts, pair=None, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
  file = other_tokenizers.write(tmp_path, found.to_str())
  about = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": adds}
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
  made = taken(file, tmp_path / "made")
  assert made.decode([made.begin_of_document]) == begin
  assert Tokenizer(tmp_path).digest == made.digest


def test_settings_of_its_last_caller_change_nothing(text, tmp_path):
  plain = taken(other_tokenizers.write(tmp_path, text), tmp_path / "plain")
  found = tokenizers.Tokenizer.from_str(text)
  found.enable_truncation(8)
  found.enable_padding(pad_id=2, pad_token="</s>")
  made = taken(other_tokenizers.write(tmp_path, found.to_str()), tmp_path / "made")
  some = [packages.TEXT[0], "a"]
  for ids, wanted in zip(made.encode_batch(some), plain.encode_batch(some), strict=True):
    assert ids.tolist() == wanted.tolist()
  assert made.digest == plain.digest


def test_ids_that_are_left_out_count(text, tmp_path):
  found = json.loads(text)
  vocab = found["model"]["vocab"]
  vocab[max(vocab, key=vocab.get)] = 999
  file = other_tokenizers.write(tmp_path, json.dumps(found))
  with pytest.raises(UserError, match=r"has 1000 entries: set tokenizer.vocab_size"):
    taken(file, tmp_path / "made")
  made = prepare(mock.Mock(spec=Documents), TokenizerConfig(1000, 1, str(file)), tmp_path / "made")
  assert made.vocab_size == 1000


def test_what_usually_ends_documents_begins_them(tmp_path):
  file = other_tokenizers.write(tmp_path, packages.trained(), begin="a", end="b")
  made = prepare(
    mock.Mock(spec=Documents), TokenizerConfig(packages.VOCAB, 1, str(file)), tmp_path / "made"
  )
  assert made.decode([made.begin_of_document, made.end_of_document]) == 2 * END_OF_DOCUMENT


def test_all_text_comes_back(text, tmp_path):
  found = taken(other_tokenizers.write(tmp_path, text), tmp_path / "made")
  some = [*strings.odd(packages.TEXT[0].split(), 50), "a </s>b<s> ", "  two", "", " "]
  for each, ids in zip(some, found.encode_batch(some), strict=True):
    assert found.decode(ids) == each.replace(other_tokenizers.MARK, " ")
    assert found.end_of_document not in ids


def test_text_that_goes_on_keeps_its_space(text, tmp_path):
  found = taken(other_tokenizers.write(tmp_path, text), tmp_path / "made")
  before, whole = found.encode_batch(["The judge", "The judge's 12 pleas"])
  assert whole[: len(before)].tolist() == before.tolist()
  ids = found.encode_batch(["pleas"])[0].tolist()
  assert found.decode(ids) == "pleas"
  assert found.decode_after_text(ids) == " pleas"
  byte = whole.tolist()[-1:] + found.encode_batch(["\u4e2d"])[0].tolist()[1:2]
  assert found.decode_after_text(byte)[-1] == "\ufffd"


@pytest.mark.parametrize(
  "beside", [None, "{", "[]", "{}", '{"eos_token": null}', '{"eos_token": "<no>"}']
)
def test_who_does_not_say_it_is_refused(text, tmp_path, beside):
  file = other_tokenizers.write(tmp_path, text)
  if beside is None:
    (tmp_path / "tokenizer_config.json").unlink()
  else:
    (tmp_path / "tokenizer_config.json").write_text(beside)
  for make in (lambda: taken(file, tmp_path / "made"), lambda: Tokenizer(tmp_path)):
    with pytest.raises(UserError, match='names no other one of it as "eos_token": copy that file'):
      make()
  assert not (tmp_path / "made").exists()


def test_one_that_loses_text_is_refused(text, tmp_path):
  lossy = tokenizers.Tokenizer.from_str(text)
  lossy.normalizer = normalizers.Sequence([lossy.normalizer, normalizers.Lowercase()])
  file = other_tokenizers.write(tmp_path, lossy.to_str())
  with pytest.raises(UserError, match="loses some text"):
    taken(file, tmp_path / "made")


def test_one_that_lacks_a_byte_is_refused(text, tmp_path):
  found = json.loads(text)
  found["model"]["vocab"]["spare"] = found["model"]["vocab"].pop("<0xE2>")
  file = other_tokenizers.write(tmp_path, json.dumps(found))
  with pytest.raises(UserError, match="loses some text"):
    taken(file, tmp_path / "made")


def test_others_around_a_document_make_other_tokenizers(text, tmp_path):
  digests = set()
  for around in (("</s>", "<s>"), ("<s>", "<s>"), ("</s>", "</s>")):
    other_tokenizers.write(tmp_path, text, *around)
    digests.add(Tokenizer(tmp_path).digest)
  assert len(digests) == 3


@pytest.mark.parametrize(
  ("begin", "end", "is_special"),
  [("</s>", "</s>", False), ("a", "</s>", True), ("</s>", "a", True)],
)
def test_one_whose_text_can_be_what_is_around_it_is_refused(tmp_path, begin, end, is_special):
  found = json.loads(packages.trained().replace(END_OF_DOCUMENT, "</s>"))
  found["added_tokens"][0]["special"] = is_special
  file = other_tokenizers.write(tmp_path, json.dumps(found), end, begin)
  said = " or ".join(sorted({begin, end}))
  with pytest.raises(UserError, match=f"or takes text for {said}:"):
    taken(file, tmp_path / "made")

"""Byte-level BPE that transformers and llama.cpp load unchanged: GPT-2's pre-tokenization.

Another model's tokenizer serves as well, if text comes back from its ids (SentencePiece's give a
space for U+2581).
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from specialization import artifact, metrics
from specialization.config import TokenizerConfig
from specialization.data.documents import Documents
from specialization.errors import UserError
from specialization.strict import to_dict

END_OF_DOCUMENT = "<|endoftext|>"
_SMALLEST = 257  # every byte and the end of a document
_FILE, _ABOUT = "tokenizer.json", "tokenizer_config.json"
_UNUSED = ("version", "truncation", "padding", "post_processor")  # parts that are not used here
# What other tokenizers lose, and all bytes that UTF-8 has.
_POINTS = (*range(0x100), *range(0x100, 0x800, 0x40), 0x800, *range(0x1000, 0x10000, 0x1000))
_SAMPLE = "  Was\n\n" + "".join(map(chr, (*_POINTS, *range(0x10000, 0x110000, 0x40000), 0x10FFFF)))


class _Token(NamedTuple):
  text: str
  id: int


class Tokenizer:
  """Text to ids and back; all text has ids, and ids of text give that text."""

  def __init__(self, folder: Path):
    """Raises UserError unless `prepare` has finished there."""
    if not (folder / _FILE).is_file():
      raise UserError(
        f"There is no {_FILE} in {folder}: run `specialization prepare` first, or copy a model with"
        " its fast tokenizer, which transformers' `save_pretrained` writes."
      )
    self._folder = folder
    self._tokenizer = _opened(folder / _FILE)
    self._begin, self._end = _around(self._tokenizer, folder / _FILE)
    self._vocab_size = _size(self._tokenizer)

  @property
  def file(self) -> Path:
    """The tokenizer.json."""
    return self._folder / _FILE

  def __reduce__(self) -> tuple[type["Tokenizer"], tuple[Path]]:
    return Tokenizer, (self._folder,)

  @property
  def hash(self) -> str:
    return artifact.fingerprint(artifact.made_from(self._folder))

  @property
  def digest(self) -> str:
    """Identifies what it does with text, wherever it came from."""
    found = json.loads(self._tokenizer.to_str())  # whichever way the file spells it
    parts = {k: v for k, v in found.items() if k not in _UNUSED}
    parts |= _unusual(self._begin, self._end)
    return artifact.fingerprint(parts)

  @property
  def vocab_size(self) -> int:
    """Number of ids, the end of a document included; where some are left out, up to the last."""
    return self._vocab_size

  @property
  def end_of_document(self) -> int:
    """Id of the token that comes after each document and that no text encodes to."""
    return self._end.id

  @property
  def begin_of_document(self) -> int:
    """Id of the token before each document: one of its own, or the end of the one before."""
    return self._begin.id

  def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns u32[tokens] for each text, without any end of document."""
    found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(each.ids, np.uint32) for each in found]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns the text; bytes that are not UTF-8 become U+FFFD."""
    return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

  def decode_after_text(self, ids: Sequence[int]) -> str:
    """Returns what ids add to a text: some tokenizers drop the first space of a whole one."""
    return self.decode([self._end.id, *ids])[len(self.decode([self._end.id])) :]


def _opened(file: Path) -> tokenizers.Tokenizer:
  """Returns the tokenizer in a file, which cuts and pads no text and takes special tokens for text.

  Raises:
    UserError: it cannot be read.
  """
  try:
    found = tokenizers.Tokenizer.from_file(str(file))
  except Exception as error:  # The library raises nothing more precise.
    raise UserError(
      f"{file} is no tokenizer.json that can be read ({error}): copy it anew, or name another one."
    ) from None
  # Settings of its last caller's that transformers writes too.
  found.no_truncation()
  found.no_padding()
  # A document that spells a special token (a manual on language models) must not end there. Neither
  # the file nor a pickle carries this setting.
  found.encode_special_tokens = True
  return found


def _size(tokenizer: tokenizers.Tokenizer) -> int:
  return 1 + max(tokenizer.get_vocab().values(), default=-1)


def _around(tokenizer: tokenizers.Tokenizer, file: Path) -> tuple[_Token, _Token]:
  """Returns what comes before and after documents.

  Other models' end is said beside the file; their begin is what the tokenizer puts before texts.

  Raises:
    UserError: nothing is said.
  """
  if usual := _known(tokenizer, END_OF_DOCUMENT):
    return usual, usual
  said = dict[str, Any]()
  with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
    said = dict(json.loads((file.parent / _ABOUT).read_text()))
  end = _known(tokenizer, said.get("eos_token"))
  if end is None:
    raise UserError(
      f"{file} has no token {END_OF_DOCUMENT}, and {_ABOUT} beside it names no other one of it as"
      ' "eos_token": copy that file too, or name there the token that ends documents.'
    )
  if (puts := said.get("add_bos_token")) is None:
    found = tokenizer.encode("x", add_special_tokens=True)
    begin = _known(tokenizer, found.tokens[0]) if found.special_tokens_mask[0] else None
  else:
    begin = _known(tokenizer, said.get("bos_token")) if puts else None
  return begin or end, end


def _known(tokenizer: tokenizers.Tokenizer, said: Any) -> _Token | None:
  text: Any = said.get("content") if isinstance(said, dict) else said
  found = tokenizer.token_to_id(text) if isinstance(text, str) else None
  return None if found is None else _Token(text, found)


def _unusual(begin: _Token, end: _Token) -> dict[str, str]:
  """Returns what there is to say of them: hashes of before there was a choice stay valid."""
  said = {"end": end.text} if end.text != END_OF_DOCUMENT else {}
  return said if begin == end else {**said, "begin": begin.text}


def prepare(documents: Documents, config: TokenizerConfig, folder: Path) -> Tokenizer:
  """Trains the tokenizer on the training documents or copies the given one, or finds it made.

  Raises:
    UserError: the vocabulary has no room for all bytes, the text is too little for it, the given
      file does not serve, or the folder was made from something else.
  """
  if config.vocab_size < _SMALLEST:
    raise UserError(
      f"tokenizer.vocab_size={config.vocab_size} must be at least {_SMALLEST}: all bytes and the"
      " end of a document."
    )
  if config.file:
    return _copy(Path(config.file), config.vocab_size, folder)
  trained_with = {k: v for k, v in to_dict(config).items() if k != "file"}
  wanted = {"documents": documents.hash, "tokenizer": trained_with}
  if not artifact.exists(folder, wanted):
    trained = _train(documents, config)
    if (found := trained.get_vocab_size()) < config.vocab_size:
      raise UserError(
        f"The generic text yields only {found} of tokenizer.vocab_size={config.vocab_size} entries:"
        " lower it, or give more text (tokenizer.train_bytes, data.generic)."
      )
    with artifact.create(folder, wanted) as temporary:
      trained.save(str(temporary / _FILE))
  return Tokenizer(folder)


def _copy(file: Path, vocab_size: int, folder: Path) -> Tokenizer:
  given = _opened(file.expanduser())
  begin, end = _around(given, file.expanduser())
  for sample in (_SAMPLE, f"{_SAMPLE}{begin.text}{end.text} x"):
    ids = given.encode(sample, add_special_tokens=False).ids
    if given.decode(ids, skip_special_tokens=False) != sample or {begin.id, end.id} & set(ids):
      raise UserError(
        f"tokenizer.file={file} loses some text or takes text for"
        f" {' or '.join(sorted({begin.text, end.text}))}: choose one that knows all bytes."
      )
  if (size := _size(given)) != vocab_size:
    raise UserError(
      f"tokenizer.file={file} has {size} entries: set tokenizer.vocab_size={vocab_size} to that."
    )
  text = file.expanduser().read_text()
  wanted = {"file": artifact.fingerprint({"text": text})} | _unusual(begin, end)
  if not artifact.exists(folder, wanted):
    about = {"bos_token": begin.text, "eos_token": end.text, "add_bos_token": True}
    with artifact.create(folder, wanted) as temporary:
      (temporary / _FILE).write_text(text)
      (temporary / _ABOUT).write_text(json.dumps(about))
  return Tokenizer(folder)


def _train(documents: Documents, config: TokenizerConfig) -> tokenizers.Tokenizer:
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=config.vocab_size,
    special_tokens=[END_OF_DOCUMENT],
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(_sample(documents, config.train_bytes), trainer)
  return tokenizer


def _sample(documents: Documents, train_bytes: int) -> Iterator[list[str]]:
  """Yields documents spread evenly over all of them: sources may follow one another."""
  share = min(1.0, train_bytes / documents.bytes("train"))
  seen = taken = 0
  total = min(train_bytes, documents.bytes("train"))
  with metrics.progress(total, "text for the tokenizer", "B") as bar:
    for batch in documents.batches("train"):
      chosen = []
      for text in batch:
        size = len(text.encode())
        seen += size
        if taken + size <= share * seen:
          taken += size
          bar.update(size)
          chosen.append(text)
      yield chosen

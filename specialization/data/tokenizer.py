"""Byte-level BPE that transformers and llama.cpp load unchanged: GPT-2's pre-tokenization.

Another model's tokenizer serves as well, if text comes back from its ids (SentencePiece's give a
space for U+2581).
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

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
_UNUSED = ("version", "truncation", "padding", "post_processor")  # parts that do nothing here
# What other tokenizers lose, and all bytes that UTF-8 has.
_POINTS = (*range(0x100), *range(0x100, 0x800, 0x40), 0x800, *range(0x1000, 0x10000, 0x1000))
_SAMPLE = "  Was\n\n" + "".join(map(chr, (*_POINTS, *range(0x10000, 0x110000, 0x40000), 0x10FFFF)))


class Tokenizer:
  """Text to ids and back; all text has ids, and ids of text give that text."""

  def __init__(self, folder: Path):
    """Raises UserError unless `prepare` has finished there."""
    if not (folder / _FILE).is_file():
      raise UserError(
        f"There is no {_FILE} in {folder}: run `specialization prepare` first, or copy a model with"
        " its tokenizer."
      )
    self._folder = folder
    try:
      self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / _FILE))
    except Exception as error:  # The library raises nothing more precise.
      raise UserError(f"{folder / _FILE} cannot be read ({error}): copy it anew.") from None
    # A document that spells the token (a manual on language models) must not end there. Neither
    # the file nor a pickle carries this setting.
    self._tokenizer.encode_special_tokens = True
    self._end = _ending(self._tokenizer, folder)[1]

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
    if (token := self._tokenizer.id_to_token(self._end)) != END_OF_DOCUMENT:
      parts["end"] = token
    return artifact.fingerprint(parts)

  @property
  def vocab_size(self) -> int:
    """Number of entries, the end of a document included."""
    return self._tokenizer.get_vocab_size()

  @property
  def end_of_document(self) -> int:
    """Id of the token that stands between documents and that no text encodes to."""
    return self._end

  def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns u32[tokens] for each text, without any end of document."""
    found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(each.ids, np.uint32) for each in found]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns the text; bytes that are not UTF-8 become U+FFFD."""
    return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

  def decode_after_text(self, ids: Sequence[int]) -> str:
    """Returns what ids add to a text: some tokenizers drop the first space of a whole one."""
    return self.decode([self._end, *ids])[len(self.decode([self._end])) :]


def _ending(tokenizer: tokenizers.Tokenizer, folder: Path) -> tuple[str, int]:
  """Returns the token that ends documents: the usual one, or what is said beside tokenizer.json.

  Raises:
    UserError: there is none.
  """
  token, end = END_OF_DOCUMENT, tokenizer.token_to_id(END_OF_DOCUMENT)
  if end is None:
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
      found = json.loads((folder / _ABOUT).read_text())["eos_token"]
      token = found["content"] if isinstance(found, dict) else found
      end = tokenizer.token_to_id(token)
  if end is None:
    raise UserError(
      f"{folder / _FILE} has no token {END_OF_DOCUMENT}, and {_ABOUT} beside it names no other one"
      ' of it as "eos_token": copy that file too, or name there the token that ends documents.'
    )
  return token, end


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
  try:
    text = file.expanduser().read_text()
    given = tokenizers.Tokenizer.from_str(text)
  except Exception as error:  # The library raises nothing more precise.
    raise UserError(
      f"tokenizer.file={file} is no tokenizer.json that can be read: {error}."
    ) from None
  end, known = _ending(given, file.expanduser().parent)
  given.encode_special_tokens = True
  for sample in (_SAMPLE, f"{_SAMPLE}{end} x"):
    ids = given.encode(sample, add_special_tokens=False).ids
    if given.decode(ids, skip_special_tokens=False) != sample or known in ids:
      raise UserError(
        f"tokenizer.file={file} loses some text or takes text for {end}: choose one that knows all"
        " bytes."
      )
  if given.get_vocab_size() != vocab_size:
    raise UserError(
      f"tokenizer.file={file} has {given.get_vocab_size()} entries: set"
      f" tokenizer.vocab_size={vocab_size} to that."
    )
  wanted = {"file": artifact.fingerprint({"text": text})}
  if end != END_OF_DOCUMENT:
    wanted["end"] = end
  if not artifact.exists(folder, wanted):
    with artifact.create(folder, wanted) as temporary:
      (temporary / _FILE).write_text(text)
      (temporary / _ABOUT).write_text(json.dumps({"eos_token": end}))
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

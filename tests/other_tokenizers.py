"""Tokenizers as other models have them, trained on texts."""

import json
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

MARK = "\u2581"
_BYTES = [f"<0x{i:02X}>" for i in range(256)]


def marked(texts: list[str], vocab_size: int) -> str:
  """Returns Llama 2's kind: a mark for the space before a word, and bytes for what is rare."""
  tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]
  )
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace(MARK, " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(" ", 1, 0),
    ]
  )
  special = ["<unk>", "<s>", "</s>"]
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size, special_tokens=[*special, *_BYTES], show_progress=False
  )
  tokenizer.train_from_iterator([text.replace("\n", " ") for text in texts], trainer)
  found = json.loads(tokenizer.to_str())
  found["added_tokens"] = [each for each in found["added_tokens"] if each["content"] in special]
  vocab = found["model"]["vocab"]
  learned = [token for token in vocab if token not in (*special, *_BYTES)]
  cuts = [(token[:i], token[i:]) for token in learned for i in range(1, len(token))]
  # In the order of the tokens that they make, all pairs that make one.
  found["model"]["merges"] = [pair for pair in cuts if pair[0] in vocab and pair[1] in vocab]
  return json.dumps(found)


def byte_level(texts: list[str], vocab_size: int, name: str) -> str:
  """Returns a byte-level BPE by what llama.cpp calls it: gpt-2, smollm or llama-bpe."""
  tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
  cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
  if name == "smollm":
    cut = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cut])
  if name == "llama-bpe":
    # Of https://huggingface.co/meta-llama/Meta-Llama-3-8B.
    words = Regex(
      r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
      r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), as_bytes])
  tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=["</s>", "<|user|>"],
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  found: str = tokenizer.to_str()
  return found


def write(folder: Path, text: str, end: object = "</s>", begin: object = "<s>") -> Path:
  """Writes one as Hugging Face's models have it, and returns the tokenizer.json."""
  about = {"bos_token": begin, "eos_token": end, "add_bos_token": True}
  (folder / "tokenizer_config.json").write_text(json.dumps(about))
  (folder / "tokenizer.json").write_text(text)
  return folder / "tokenizer.json"

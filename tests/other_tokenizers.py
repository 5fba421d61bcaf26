"""A tokenizer as Llama 2 has it: words begin with a mark for their space; what is rare is bytes."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, trainers

MARK = "\u2581"
_BYTES = [f"<0x{i:02X}>" for i in range(256)]


def marked(texts: list[str], vocab_size: int) -> str:
  """Returns a tokenizer.json whose documents end with </s>."""
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
  return json.dumps(found)


def write(folder: Path, text: str, end: object = "</s>") -> Path:
  """Writes it as Hugging Face's models have it, and returns the tokenizer.json."""
  (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}))
  (folder / "tokenizer.json").write_text(text)
  return folder / "tokenizer.json"

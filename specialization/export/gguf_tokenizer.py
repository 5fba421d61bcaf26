"""A tokenizer as llama.cpp has it, which knows by name how a text is cut into words."""

import itertools
import json
from typing import Any

from specialization.errors import UserError
from specialization.export.package import Package

Json = dict[str, Any]
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_LLAMA_3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
  r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CUTS = {
  "gpt-2": [_BYTES],
  "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
  "llama-bpe": [
    {"type": "Split", "pattern": {"Regex": _LLAMA_3}, "behavior": "Isolated", "invert": False},
    _BYTES | {"use_regex": False},
  ],
}
_MARKED = "llama"  # Llama 2's kind: a mark for the space before a word, and bytes for what is rare
_MARKS = [
  {"type": "Prepend", "prepend": "\u2581"},
  {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
]
_UNKNOWN = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")  # to llama.cpp


def add(writer: Any, package: Package) -> None:
  """Adds what a GGUF file says of a tokenizer.

  Raises:
    UserError: llama.cpp would find other tokens than the tokenizer does.
  """
  import gguf

  found = json.loads(package.tokenizer.read_text())
  kind = _kind(found)
  if kind is None or sorted(_ids(found).values()) != list(range(package.vocab_size)):
    raise UserError(
      f"The tokenizer of {package.name} is of no kind that is known here to be llama.cpp's too:"
      " export hf, and convert that with llama.cpp's own script, which knows more."
    )
  ids, merges = _ids(found), _merges(found)
  tokens = sorted(ids, key=ids.__getitem__)
  types = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
  if kind == _MARKED:
    writer.add_tokenizer_model("llama")
    # It joins what makes the token of the highest score, and merges are in that order.
    score = {"".join(pair): -float(rank) for rank, pair in enumerate(merges)}
    writer.add_token_scores([score.get(token, -float(len(merges))) for token in tokens])
    types |= {f"<0x{i:02X}>": gguf.TokenType.BYTE for i in range(256)}
    if unknown := found["model"]["unk_token"]:
      writer.add_unk_token_id(ids[unknown])
  else:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind)
    writer.add_token_merges([" ".join(pair) for pair in merges])
  types |= {token["content"]: gguf.TokenType.CONTROL for token in found["added_tokens"]}
  writer.add_token_list(tokens)
  writer.add_token_types([types[token] for token in tokens])
  writer.add_bos_token_id(package.end)
  writer.add_eos_token_id(package.end)
  writer.add_pad_token_id(package.end)
  writer.add_add_bos_token(True)


def _ids(found: Json) -> dict[str, int]:
  added = {token["content"]: token["id"] for token in found["added_tokens"]}
  return {**found["model"]["vocab"], **added}


def _merges(found: Json) -> list[tuple[str, ...]]:
  merges = found["model"]["merges"]
  return [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges]


def _steps(part: Json | None, name: str) -> list[Json]:
  """Returns what is done one after another, without what changes no token."""
  if part is None:
    return []
  steps = part[name] if part["type"] == "Sequence" else [part]
  return [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps]


def _kind(found: Json) -> str | None:
  """Returns by what name llama.cpp knows how a text becomes tokens."""
  model = found["model"]
  is_other = model["type"] != "BPE" or any(model.get(part) for part in _UNKNOWN)
  # Text never has those that are special, and others would cut it.
  if is_other or not all(token["special"] for token in found["added_tokens"]):
    return None
  cuts, changes = (
    _steps(found[part], name)
    for part, name in (("pre_tokenizer", "pretokenizers"), ("normalizer", "normalizers"))
  )
  if model.get("byte_fallback"):
    return _MARKED if not cuts and changes == _MARKS and _is_whole(found) else None
  name = next((name for name, known in _CUTS.items() if known == cuts), None)
  takes_whole_words = bool(model.get("ignore_merges"))
  return name if not changes and takes_whole_words == (name == "llama-bpe") else None


def _is_whole(found: Json) -> bool:
  """Returns whether any two tokens that make a third are merged, all that make one in a row."""
  tokens, merges = _ids(found), _merges(found)
  pairs = ((token[:i], token[i:]) for token in tokens for i in range(1, len(token)))
  joined = {pair for pair in pairs if pair[0] in tokens and pair[1] in tokens}
  made = [token for token, _ in itertools.groupby(map("".join, merges))]
  return joined <= set(merges) and len(set(made)) == len(made)

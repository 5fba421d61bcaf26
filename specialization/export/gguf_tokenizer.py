"""A tokenizer as llama.cpp has it, which knows by name how a text is cut into words."""

import itertools
import json
from collections.abc import Iterator
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
_MARK = "\u2581"  # of the space before a word
_MARKED = [
  {"type": "Prepend", "prepend": _MARK},
  {"type": "Replace", "pattern": {"String": " "}, "content": _MARK},
]


def add(writer: Any, package: Package) -> None:
  """Adds what a GGUF file says of a tokenizer.

  Raises:
    UserError: llama.cpp would find other tokens than the tokenizer does.
  """
  import gguf

  found = json.loads(package.tokenizer.read_text())
  ids = dict(found["model"]["vocab"])
  added = {token["content"]: token for token in found["added_tokens"]}
  ids |= {token: about["id"] for token, about in added.items()}
  tokens, merges = sorted(ids, key=ids.__getitem__), list(_merges(found["model"]))
  kind = gguf.TokenType
  types = dict.fromkeys(tokens, kind.NORMAL)
  if name := _cut(found):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_merges([" ".join(pair) for pair in merges])
  elif _is_marked(found, set(ids), merges):
    writer.add_tokenizer_model("llama")
    # It joins what makes the token of the highest score, and merges are in that order.
    score = {"".join(pair): -float(rank) for rank, pair in enumerate(merges)}
    writer.add_token_scores([score.get(token, -float(len(merges))) for token in tokens])
    types |= {f"<0x{i:02X}>": kind.BYTE for i in range(256)}
    if unknown := found["model"]["unk_token"]:
      writer.add_unk_token_id(ids[unknown])
  else:
    raise UserError(
      f"The tokenizer of {package.name} is of no kind that is known here to be llama.cpp's too:"
      " export hf, and convert that with llama.cpp's own script, which knows more."
    )
  for token, about in added.items():
    types[token] = kind.CONTROL if about["special"] else kind.USER_DEFINED
  writer.add_token_list(tokens)
  writer.add_token_types([types[token] for token in tokens])
  writer.add_bos_token_id(package.end)
  writer.add_eos_token_id(package.end)
  writer.add_pad_token_id(package.end)
  writer.add_add_bos_token(True)


def _merges(model: Json) -> Iterator[tuple[str, str]]:
  for pair in model["merges"]:
    first, second = pair.split(" ") if isinstance(pair, str) else pair
    yield first, second


def _steps(part: Json | None, name: str) -> list[Json]:
  """Returns what is done one after another, without what changes no token."""
  if part is None:
    return []
  steps = part[name] if part["type"] == "Sequence" else [part]
  return [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps]


def _cut(found: Json) -> str | None:
  """Returns the name of how byte-level BPE cuts a text."""
  if found["normalizer"] or found["model"].get("byte_fallback"):
    return None
  steps = _steps(found["pre_tokenizer"], "pretokenizers")
  name = next((name for name, cut in _CUTS.items() if cut == steps), None)
  takes_whole_words = bool(found["model"].get("ignore_merges"))
  return name if takes_whole_words == (name == "llama-bpe") else None


def _is_marked(found: Json, tokens: set[str], merges: list[tuple[str, str]]) -> bool:
  """Returns whether it is of Llama 2's kind.

  There any two tokens that make a third are merged, and no other merge is between those that make
  the same one.
  """
  if found["pre_tokenizer"] or _steps(found["normalizer"], "normalizers") != _MARKED:
    return False
  cuts = ((token[:i], token[i:]) for token in tokens for i in range(1, len(token)))
  joined = {pair for pair in cuts if pair[0] in tokens and pair[1] in tokens}
  made = [token for token, _ in itertools.groupby(map("".join, merges))]
  is_whole = joined <= set(merges) and len(set(made)) == len(made)
  return is_whole and bool(found["model"].get("byte_fallback"))

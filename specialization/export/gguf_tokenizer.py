"""A tokenizer as llama.cpp has it, which knows by name how a text is cut into words."""

import collections
import itertools
import json
from typing import Any

import tokenizers

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

  tokenizer = tokenizers.Tokenizer.from_file(str(package.tokenizer))
  found = json.loads(tokenizer.to_str())  # whichever way the file spells it
  kind, ids, merges = _kind(tokenizer, found), _ids(found), _merges(found)
  if kind is None:
    raise UserError(
      f"The tokenizer of {package.name} is of no kind that is known here to be llama.cpp's too:"
      " export hf, and convert that with llama.cpp's own script, which knows more."
    )
  if sorted(ids.values()) != list(range(package.vocab_size)):
    raise UserError(
      f"The tokenizer of {package.name} has {len(ids)} tokens, whose ids are not 0 to"
      f" {package.vocab_size - 1}: export hf, and convert that with llama.cpp's own script."
    )
  tokens = sorted(ids, key=ids.__getitem__)
  types = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
  if kind == _MARKED:
    writer.add_tokenizer_model("llama")
    # It joins what makes the token of the highest score, and merges are in that order.
    ranks = _ranks(merges)
    writer.add_token_scores([-float(ranks.get(token, len(merges))) for token in tokens])
    types |= {f"<0x{i:02X}>": gguf.TokenType.BYTE for i in range(256)}
    if (unknown := ids.get(found["model"]["unk_token"])) is not None:
      writer.add_unk_token_id(unknown)
  else:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind)
    writer.add_token_merges([" ".join(pair) for pair in merges])
  types |= {token["content"]: gguf.TokenType.CONTROL for token in found["added_tokens"]}
  writer.add_token_list(tokens)
  writer.add_token_types([types[token] for token in tokens])
  writer.add_bos_token_id(package.begin)
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


def _kind(tokenizer: tokenizers.Tokenizer, found: Json) -> str | None:
  """Returns by what name llama.cpp knows how a text becomes tokens."""
  model, added = found["model"], found["added_tokens"]
  is_other = model["type"] != "BPE" or any(model.get(part) for part in _UNKNOWN)
  # Those that are special are not taken from a text, and others would cut it.
  if is_other or not all(token["special"] for token in added):
    return None
  cuts, changes = (
    _steps(found[part], name)
    for part, name in (("pre_tokenizer", "pretokenizers"), ("normalizer", "normalizers"))
  )
  takes_whole_words = bool(model.get("ignore_merges"))
  if model.get("byte_fallback"):
    is_marked = not cuts and not takes_whole_words and changes == _MARKS
    return _MARKED if is_marked and _is_whole(found) else None
  name = next((name for name, known in _CUTS.items() if known == cuts), None)
  if name is None or changes or takes_whole_words != (name == "llama-bpe"):
    return None
  # llama.cpp also takes a special token, if it is a whole word.
  words = tokenizer.pre_tokenizer.pre_tokenize_str
  is_cut = all(len(words(token["content"])) > 1 for token in added)
  return name if is_cut or not takes_whole_words else None


def _is_whole(found: Json) -> bool:
  """Returns whether joining what makes the best token does what the merges do.

  It does if any two tokens that make a third are merged, and all merges that make it are in a row.
  Those of runs of one character may be apart, if nothing else is between them.
  """
  tokens, merges = _ids(found), _merges(found)
  pairs = ((token[:i], token[i:]) for token in tokens for i in range(1, len(token)))
  joined = {pair for pair in pairs if pair[0] in tokens and pair[1] in tokens}
  if not joined <= set(merges):
    return False
  made = ["".join(pair) for pair in merges]
  rows = collections.Counter(token for token, _ in itertools.groupby(made))
  apart = {token for token, n in rows.items() if n > 1}
  if not apart:
    return True
  at = [rank for rank, token in enumerate(made) if token in apart]
  characters = set("".join(made[at[0] : at[-1] + 1]))
  by_pair = {pair: rank for rank, pair in enumerate(merges)}
  ranks = _ranks(merges)
  by_token = {pair: ranks["".join(pair)] for pair in merges}
  runs = ([*characters] * n for n in range(2 * len(max(apart, key=len))))
  return len(characters) == 1 and all(_join(run, by_pair) == _join(run, by_token) for run in runs)


def _ranks(merges: list[tuple[str, ...]]) -> dict[str, int]:
  """Returns the last merge that makes each token."""
  return {"".join(pair): rank for rank, pair in enumerate(merges)}


def _join(parts: list[str], ranks: dict[tuple[str, ...], int]) -> list[str]:
  """Returns what is left when the first of the lowest pairs is joined, again and again."""
  parts = list(parts)
  while found := [(ranks[p], i) for i, p in enumerate(itertools.pairwise(parts)) if p in ranks]:
    _, i = min(found)
    parts[i : i + 2] = ["".join(parts[i : i + 2])]
  return parts

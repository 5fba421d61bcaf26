"""Token ids by llama.cpp, of a GGUF file, against those by the tokenizer.json beside the model.

PYTHONPATH=.:tests python tests/llama_cpp_tokens.py GGUF_FOLDER HF_FOLDER TEXT...

Needs llama-cpp-python, which takes minutes to build. TEXT are files in the Pile's format, of whose
documents 1,000 are taken; beside them 1,000 random strings, and each character of Unicode.
"""

import itertools
import sys
from pathlib import Path

import llama_cpp

import strings
from specialization.data import readers
from specialization.data.tokenizer import Tokenizer
from specialization.export import gguf


def documents(*paths: Path) -> list[str]:
  """Returns the first 1,000."""
  wanted = readers.Wanted("text", "", 6000)
  found = (text for path in paths for _, text in readers.json_lines(str(path), wanted) if text)
  real = list(itertools.islice(found, 1000))
  assert len(real) == 1000, len(real)
  return real


def compare(folder: Path, ours: Tokenizer, real: list[str]) -> None:
  """Prints how many texts have other tokens by the file in a folder."""
  theirs = llama_cpp.Llama(str(folder / gguf.FILE), vocab_only=True, verbose=False)
  odd = list(strings.odd(" ".join(real[:20]).split(" ")))
  differ = 0
  for text, ids in zip([*real, *odd], ours.encode_batch([*real, *odd]), strict=True):
    differ += theirs.tokenize(text.encode(), add_bos=False, special=False) != ids.tolist()
  tokens = sum(map(len, ours.encode_batch([*real, *odd])))
  print(f"{len(real)} documents and {len(odd)} other strings, {tokens:,} tokens: {differ} differ.")
  assert not differ
  with_start = theirs.tokenize(b"x", add_bos=True, special=False)
  assert with_start[0] == ours.begin_of_document, with_start


def main(gguf_folder: Path, hf_folder: Path, *paths: Path) -> None:
  compare(gguf_folder, Tokenizer(hf_folder), documents(*paths))


if __name__ == "__main__":
  main(*map(Path, sys.argv[1:]))

"""Token ids by llama.cpp of each kind of tokenizer that GGUF has by name, against tokenizer.json.

PYTHONPATH=.:tests python tests/llama_cpp_kinds.py TEXT...

As llama_cpp_tokens.py, but with tokenizers of 4,000 tokens that are trained on the same documents.
"""

import sys
import tempfile
from pathlib import Path

import jax

import llama_cpp_tokens
import other_tokenizers
import packages
from specialization.data.tokenizer import Tokenizer
from specialization.export import gguf
from specialization.models import Transformer

SIZE = 4000


def main(*paths: Path) -> None:
  texts = llama_cpp_tokens.documents(*paths)
  made = {n: other_tokenizers.byte_level(texts, SIZE, n) for n in ("gpt-2", "smollm", "llama-bpe")}
  made["llama"] = other_tokenizers.marked(texts, SIZE)
  of = Transformer(packages.transformer().config, SIZE, packages.transformer().compute)
  params = of.initialize(jax.random.key(0))
  for name, text in made.items():
    with tempfile.TemporaryDirectory() as place:
      folder = Path(place)
      other_tokenizers.write(folder, text)
      package = packages.package(of, params, folder, text)
      gguf.write(package, folder, "f32")
      print(f"{name}:", end=" ")
      llama_cpp_tokens.compare(folder, Tokenizer(folder), texts)


if __name__ == "__main__":
  main(*map(Path, sys.argv[1:]))

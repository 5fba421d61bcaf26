"""A BERT of random weights, in the files that sentence-transformers and transformers read."""

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "law", "sea")
CONFIG: dict[str, Any] = {
  "model_type": "bert",
  "vocab_size": len(WORDS) + 2 * 26,
  "type_vocab_size": 2,
  "max_position_embeddings": 24,
  "hidden_size": 16,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "intermediate_size": 40,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-12,
}
MODULES = [
  {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
  for i, (path, kind) in enumerate(
    [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
  )
]
POOLING = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
  """Returns weights by BertModel's names, large enough for every one of them to matter."""
  rng = np.random.default_rng(seed)
  d, f = CONFIG["hidden_size"], CONFIG["intermediate_size"]
  found = {}

  def normal(name: str, *shape: int, mean: float = 0.0) -> None:
    found[name] = (mean + 0.5 * rng.normal(size=shape)).astype(np.float32)

  def norm(name: str) -> None:
    normal(f"{name}.LayerNorm.weight", d, mean=1.0)
    normal(f"{name}.LayerNorm.bias", d)

  for name, rows in (
    ("word", "vocab_size"),
    ("position", "max_position_embeddings"),
    ("token_type", "type_vocab_size"),
  ):
    normal(f"embeddings.{name}_embeddings.weight", CONFIG[rows], d)
  norm("embeddings")
  for i in range(CONFIG["num_hidden_layers"]):
    at = f"encoder.layer.{i}"
    for name, inputs, outputs in (
      ("attention.self.query", d, d),
      ("attention.self.key", d, d),
      ("attention.self.value", d, d),
      ("attention.output.dense", d, d),
      ("intermediate.dense", d, f),
      ("output.dense", f, d),
    ):
      normal(f"{at}.{name}.weight", outputs, inputs)
      normal(f"{at}.{name}.bias", outputs)
    norm(f"{at}.attention.output")
    norm(f"{at}.output")
  return found


def tokenizer() -> Tokenizer:
  """Returns WordPiece over letters, which pads and cuts as no one wants it to."""
  letters = [mark + letter for mark in ("", "##") for letter in string.ascii_lowercase]
  made = Tokenizer(
    models.WordPiece({word: i for i, word in enumerate((*WORDS, *letters))}, unk_token="[UNK]")
  )
  made.normalizer = normalizers.BertNormalizer()
  made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  made.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
  )
  made.enable_padding(length=12)
  made.enable_truncation(12)
  return made


def write(folder: Path, seed: int = 0) -> Path:
  """Writes an encoder's files; returns the folder."""
  (folder / "1_Pooling").mkdir(parents=True)
  save_file(tensors(seed), folder / "model.safetensors")
  tokenizer().save(str(folder / "tokenizer.json"))
  for name, content in (
    ("config.json", CONFIG),
    ("modules.json", MODULES),
    ("1_Pooling/config.json", POOLING),
  ):
    (folder / name).write_text(json.dumps(content))
  return folder

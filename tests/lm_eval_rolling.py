"""Perplexity of an exported cell's test set by lm-eval, beside what its card says.

PYTHONPATH=. python tests/lm_eval_rolling.py HF_FOLDER STORE

STORE is the study's data/test/DOMAIN, which has the documents that `evaluate` has read.
"""

import math
import re
import sys
from pathlib import Path

import lm_eval.api.instance
import lm_eval.models.huggingface
import numpy as np

from specialization.data.store import Store
from specialization.data.tokenizer import Tokenizer


def documents(store: Store, tokenizer: Tokenizer) -> list[str]:
  """Returns the texts whose tokens a store of windows predicts."""
  everything, found = np.arange(store.n_rows), list[list[int]]()
  for row, mask in zip(store.rows(everything), store.mask(everything), strict=True):
    if row[0] == tokenizer.begin_of_document:
      found.append([])
    found[-1] += row[1:][mask].tolist()
  texts = [tokenizer.decode(ids) for ids in found]
  assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == found
  return texts


def main(folder: Path, store: Path) -> None:
  test = Store(store)
  texts = documents(test, Tokenizer(folder))
  model = lm_eval.models.huggingface.HFLM(
    pretrained=str(folder), device="cpu", dtype="float32", batch_size=16, add_bos_token=False
  )
  requests = [
    lm_eval.api.instance.Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts
  ]
  nats = -sum(model.loglikelihood_rolling(requests, disable_tqdm=True))
  said = re.search(r"in lm-eval's windows \| ([\d.]+)", (folder / "README.md").read_text())
  assert said
  print(f"{len(texts)} documents of {test.n_tokens:,} tokens:", end=" ")
  print(f"lm-eval {math.exp(nats / test.n_tokens):.4f}, the card {said[1]}")


if __name__ == "__main__":
  main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Perplexity of an exported cell's test set by lm-eval, beside what its card says.

PYTHONPATH=.:tests python tests/lm_eval_rolling.py HF_FOLDER TEXT...

TEXT are the domain's test files, in the Pile's format, of which `evaluate` has read all.
"""

import math
import re
import sys
from pathlib import Path

import lm_eval.api.instance
import lm_eval.models.huggingface

from specialization.data import readers
from specialization.data.tokenizer import Tokenizer


def main(folder: Path, *texts: Path) -> None:
  wanted = readers.Wanted("text", "", 1 << 60)
  documents = [t for path in texts for _, t in readers.json_lines(str(path), wanted) if t]
  model = lm_eval.models.huggingface.HFLM(
    pretrained=str(folder), device="cpu", dtype="float32", batch_size=16, add_bos_token=False
  )
  requests = [
    lm_eval.api.instance.Instance("loglikelihood_rolling", {}, (text,), 0) for text in documents
  ]
  nats = -sum(model.loglikelihood_rolling(requests, disable_tqdm=True))
  count = sum(map(len, Tokenizer(folder).encode_batch(documents)))
  said = re.search(r"in lm-eval's windows \| ([\d.]+)", (folder / "README.md").read_text())
  card = said[1] if said else "nothing"
  print(f"{len(documents)} documents of {count:,} tokens: lm-eval {math.exp(nats / count):.4f}")
  print(f"the card: {card}")


if __name__ == "__main__":
  main(Path(sys.argv[1]), *map(Path, sys.argv[2:]))

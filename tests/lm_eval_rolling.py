"""Perplexity of an exported model by lm-eval, in its windows and in ours.

PYTHONPATH=.:tests python tests/lm_eval_rolling.py HF_FOLDER TEXT...

TEXT are files in the Pile's format. Both predict the first token of a document from the end of
another one and each token once; they differ in a document's last window, which lm-eval lets begin
earlier, so that its tokens see more than ours do.
"""

import math
import sys
from pathlib import Path

import lm_eval.api.instance
import lm_eval.models.huggingface
import numpy as np

from specialization.data import readers
from specialization.phases import generate


def main(folder: Path, *texts: Path) -> None:
  wanted = readers.Wanted("text", "", 1 << 60)
  documents = [t for path in texts for _, t in readers.json_lines(str(path), wanted) if t]
  model = generate.load(folder)
  theirs = lm_eval.models.huggingface.HFLM(
    pretrained=str(folder), device="cpu", dtype="float32", batch_size=16, add_bos_token=False
  )
  requests = [
    lm_eval.api.instance.Instance("loglikelihood_rolling", {}, (text,), 0) for text in documents
  ]
  nats = -sum(theirs.loglikelihood_rolling(requests, disable_tqdm=True))
  tokens = model.tokenizer.encode_batch(documents)
  count, end, length = sum(map(len, tokens)), model.tokenizer.end_of_document, model.length
  print(f"{len(documents)} documents of {count:,} tokens: lm-eval {math.exp(nats / count):.4f}")
  for name, last in (("lm-eval's windows", True), ("ours", False)):
    total = sum(_nats(model, [end, *ids.tolist()], length, last) for ids in tokens)
    print(f"our model, {name}: {math.exp(total / count):.4f} ({total / nats - 1:+.1e} nats)")


def _nats(model: generate.Model, tokens: list[int], length: int, is_last_whole: bool) -> float:
  """Returns the nats of all tokens but the first, by windows that may end with a whole one."""
  total, done = 0.0, 1
  while done < len(tokens):
    stop = min(done + length, len(tokens))
    first = max(0, stop - length - 1) if is_last_whole else done - 1
    row = np.full((1, length), tokens[0], np.int32)
    row[0, : stop - 1 - first] = tokens[first : stop - 1]
    logits = model.logits(row)[0, done - 1 - first : stop - 1 - first].astype(np.float64)
    top = logits.max(-1)
    normal = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    total += float(np.sum(normal - logits[np.arange(stop - done), tokens[done:stop]]))
    done = stop
  return total


if __name__ == "__main__":
  main(Path(sys.argv[1]), *map(Path, sys.argv[2:]))

"""Tokens/s of generating, ours against transformers with torch, from the same exported files.

PYTHONPATH=. python tests/benchmarks/inference.py FOLDER... > docs/export/speed.md

FOLDER is what `export --format=hf` wrote. Both take turns within one process; what counts is the
median of each, and ratios are medians of those of single turns. Minutes on two cores.
"""

import datetime
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers

from specialization.export import Reader, hf
from specialization.phases import generate
from specialization.phases.evaluate import hardware

TURNS = 9


def seconds(do: Callable[[], object]) -> float:
  began = time.perf_counter()
  do()
  return time.perf_counter() - began


def compared(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[list, list]:
  """Returns the seconds of turns that alternate, after one of each that does not count."""
  taken: tuple[list[float], list[float]] = ([], [])
  for turn in range(1 + TURNS):
    for do, into in zip((ours, theirs), taken, strict=True):
      spent = seconds(do)
      if turn:
        into.append(spent)
  return taken


def row(name: str, tokens: int, ours: list[float], theirs: list[float]) -> str:
  ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
  speeds = [f"{tokens / statistics.median(turns):,.0f}" for turns in (ours, theirs)]
  return f"| {name} | {' | '.join(speeds)} | {ratio:.2f} |"


def lines(model: str, length: int, ours: Reader, theirs: Reader) -> None:
  rng = np.random.default_rng(0)
  for rows in (1, 16):
    prompt = rng.integers(1, 256, (rows, length - 1), np.int32)
    taken = compared(lambda p=prompt: ours.generate(p, 1), lambda p=prompt: theirs.generate(p, 1))
    print(row(f"{model}, prefill of {rows} x {length - 1}", prompt.size, *taken), flush=True)
  for rows in (1, 16):
    prompt, new = rng.integers(1, 256, (rows, 16), np.int32), length - 16
    assert (ours.generate(prompt, new) == theirs.generate(prompt, new)).all()
    taken = compared(
      lambda p=prompt, n=new: ours.generate(p, n), lambda p=prompt, n=new: theirs.generate(p, n)
    )
    print(row(f"{model}, decode of {rows} x {new}", rows * new, *taken), flush=True)


def main(*folders: Path) -> None:
  """Prints the table."""
  versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
  print(f"{hardware()}, {datetime.date.today()}; {versions}, {torch.get_num_threads()} threads.\n")
  print("| tokens/s | ours | transformers | ours / theirs |\n|---|---:|---:|---:|")
  for folder in folders:
    model = generate.load(folder)
    lines(
      folder.parent.name.partition("--")[0],
      model.length,
      Reader(model.logits, model.likeliest),
      hf.read(folder),
    )


if __name__ == "__main__":
  transformers.utils.logging.set_verbosity_error()
  main(*map(Path, sys.argv[1:]))

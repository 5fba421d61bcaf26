"""Tokens/s of generating, ours against transformers with torch, from the same exported files.

PYTHONPATH=. python tests/benchmarks/inference.py FOLDER... > docs/export/speed.md

FOLDER is what `export --format=hf` wrote. Each reader has a process of its own, and they take
turns; what counts is the median of each, and ratios are medians of those of single turns. Minutes
on two cores; nothing else may run.
"""

import contextlib
import datetime
import importlib.metadata
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from specialization.phases.evaluate import hardware

TURNS = 9
_REST = 0.3  # seconds before a turn, in which the other's threads go to sleep


def read(kind: str, folder: Path, asked: Connection) -> None:
  """Answers (tokens, n) with the likeliest next tokens and the seconds that they took."""
  from specialization.export import hf
  from specialization.phases import generate

  generating = generate.load(folder).likeliest if kind == "ours" else hf.read(folder).generate
  assert generating
  with contextlib.suppress(EOFError):  # Nobody asks any more.
    while True:
      tokens, n = asked.recv()
      began = time.perf_counter()
      found = generating(tokens, n)
      asked.send((found, time.perf_counter() - began))


def row(name: str, readers: list[Connection], prompt: np.ndarray, new: int, tokens: int) -> str:
  """Returns a line of the table, after a look whether both say the same."""
  taken: list[list[float]] = [[], []]
  for turn in range(1 + TURNS):  # The first one compiles.
    found = []
    for reader, seconds in zip(readers, taken, strict=True):
      time.sleep(_REST)
      reader.send((prompt, new))
      ids, spent = reader.recv()
      found.append(ids)
      if turn:
        seconds.append(spent)
    assert (found[0] == found[1]).all()
  ratio = statistics.median(b / a for a, b in zip(*taken, strict=True))
  speeds = [f"{tokens / statistics.median(seconds):,.0f}" for seconds in taken]
  return f"| {name} | {' | '.join(speeds)} | {ratio:.2f} |"


def main(*folders: Path) -> None:
  """Prints the table."""
  versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")]
  print(
    f"{hardware()}, {datetime.date.today()}; {', '.join(versions)}; medians of {TURNS} turns.\n"
  )
  print("| tokens/s | ours | transformers | ours / theirs |\n|---|---:|---:|---:|")
  spawn = multiprocessing.get_context("spawn")
  for folder in folders:
    readers, model = [], folder.parent.name.partition("--")[0]
    for kind in ("ours", "theirs"):
      here, there = spawn.Pipe()
      spawn.Process(target=read, args=(kind, folder, there), daemon=True).start()
      readers.append(here)
    rng = np.random.default_rng(0)
    for rows in (1, 16):
      prompt = rng.integers(1, 256, (rows, 255), np.int32)
      print(row(f"{model}, prefill of {rows} x 255", readers, prompt, 1, prompt.size), flush=True)
    for rows in (1, 16):
      prompt = rng.integers(1, 256, (rows, 16), np.int32)
      print(row(f"{model}, decode of {rows} x 240", readers, prompt, 240, rows * 240), flush=True)


if __name__ == "__main__":
  main(*map(Path, sys.argv[1:]))

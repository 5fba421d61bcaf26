"""What exported models cost where they run: size, speed, memory and perplexity of each.

Each is opened by its target's own reader in a process of its own, so that memory is its own.
"""

import dataclasses
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from specialization import artifact, budgets
from specialization.config import PLAIN, ModelConfig
from specialization.data import store
from specialization.errors import UserError
from specialization.export import FORMATS, Reader
from specialization.export.check import nats, own, spread
from specialization.models import Transformer
from specialization.phases import generate
from specialization.phases.evaluate import hardware
from specialization.strict import parse, to_dict

_ROWS = 256  # of held-out text, spread over all of it
_PROMPT, _NEW = 16, 64  # tokens that decoding begins with and adds, at most
_TURNS = 5  # of which the median counts
_OURS = "specialization"  # reads what was written for Hugging Face


def _ours(folder: Path) -> Reader:
  model = generate.load(folder)
  return Reader(model.logits, model.likeliest)


_READERS: Mapping[str, Callable[[Path], Reader]] = {
  _OURS: _ours,
  **{kind: made.read for kind, made in FORMATS.items()},
}


def measure(
  workdir: Path, exports: Path, cell: str, transformer: Transformer, held_out: store.Store
) -> None:
  """Measures all exports of a cell that are not known yet.

  Args:
    workdir: of the study, for `inference`.
    exports: where `export` put them.
    cell: name.
    transformer: of its size.
    held_out: text of its domain.

  Raises:
    UserError: there are none, or one cannot be read.
  """
  ways = [
    (kind, dtype, exports / cell / f"{kind}-{dtype}")
    for kind, made in FORMATS.items()
    for dtype in made.dtypes
  ]
  ways = [(kind, dtype, folder) for kind, dtype, folder in ways if folder.is_dir()]
  if not ways:
    raise UserError(f"{exports} has nothing of {cell}: run `export` first.")
  rows, mask = spread(held_out, _ROWS)
  size = json.dumps(to_dict(transformer.config) | {"vocab_size": transformer.vocab_size})
  with tempfile.TemporaryDirectory() as temporary:
    text = Path(temporary) / "text.npz"
    np.savez(text, rows=rows, mask=mask, size=size)
    for kind, dtype, folder in ways:
      for reader in [kind, _OURS] if (kind, dtype) == ("hf", "float32") else [kind]:
        target = workdir / "inference" / f"{cell}--{reader}-{dtype}.json"
        about = {"cell": cell, "format": kind, "dtype": dtype, "reader": reader}
        about["export"] = artifact.fingerprint(_made_from(folder))
        if target.exists() and json.loads(target.read_text())["export"] == about["export"]:
          continue
        found = about | _apart(reader, folder, text)
        artifact.write_text(target, json.dumps(found, indent=1))
        print(f"inference {cell}: {_said(found)}", flush=True)


def _made_from(folder: Path) -> dict[str, Any]:
  try:
    return artifact.made_from(folder)
  except FileNotFoundError:
    raise UserError(f"{folder} is not what `export` made: move it away.") from None


def _said(found: Mapping[str, Any]) -> str:
  speeds = [
    f"{name} {found[key]:,.0f} tokens/s"
    for name, key in (("prefill", "prefill"), ("decode", "decode_1"), ("16 rows", "decode_16"))
    if found[key]
  ]
  return ", ".join(
    [
      f"{found['format']} {found['dtype']} by {found['by']}",
      f"{found['bytes'] / 1e6:.2f} MB",
      *speeds,
      f"{found['memory'] / 1e6:.0f} MB of memory",
      f"perplexity {found['perplexity']:.2f}.",
    ]
  )


def _apart(reader: str, folder: Path, text: Path) -> dict[str, Any]:
  """Returns what a process of its own finds."""
  command = [sys.executable, "-m", __name__, reader, str(folder), str(text)]
  # All by the processor: this process may hold the accelerators, and few readers would use them.
  alone = os.environ | {"JAX_PLATFORMS": "cpu"}
  done = subprocess.run(command, capture_output=True, text=True, env=alone)
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    raise UserError(f"{folder} cannot be measured by {reader} ({last}): mend that, or export anew.")
  found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
  return found


@dataclasses.dataclass(frozen=True)
class _Found:
  """Of one reader; speeds in tokens/s, 0 where it has none.

  Attributes:
    by: the reader.
    parameters, bytes: of the model.
    prefill: of one row.
    decode_1, decode_16: of one row and of 16 at once.
    memory: bytes that the process had at most, interpreter and libraries included.
    perplexity: of held-out tokens.
    tokens: so many.
    hardware, date: of the measurement.
  """

  by: str
  parameters: int
  bytes: int
  prefill: float
  decode_1: float
  decode_16: float
  memory: int
  perplexity: float
  tokens: int
  hardware: str
  date: str


def main(reader: str, folder: Path, text: Path) -> None:
  """Prints what is found as JSON."""
  given = np.load(text)
  rows, mask, size = given["rows"], given["mask"], json.loads(str(given["size"]))
  vocab_size = size.pop("vocab_size")
  config = parse(ModelConfig, size)
  by = _OURS if reader == _OURS else FORMATS[reader].reader
  try:
    opened = _READERS[reader](folder)
    speeds = _speeds(opened, rows[:, :-1])
  except ImportError:
    by = f"{_OURS}, without {by}"
    transformer = Transformer(config, vocab_size, PLAIN)
    opened = Reader(own(transformer, FORMATS[reader].weights(folder, config)))
    speeds = (0.0, 0.0, 0.0)
  memory = _peak()  # before all logits of many rows are asked for
  made = _Found(
    by,
    budgets.parameters(config, vocab_size),
    sum(path.stat().st_size for path in folder.glob("model*")),
    *speeds,
    memory=memory,
    perplexity=math.exp(min(nats(opened.logits, rows, mask), 700.0)),
    tokens=int(mask.sum()),
    hardware=hardware(),
    date=date.today().isoformat(),
  )
  print(json.dumps(dataclasses.asdict(made)))


def _speeds(opened: Reader, rows: np.ndarray) -> tuple[float, float, float]:
  """Returns tokens/s of reading a row, of going on with one row and with 16."""
  whole, go_on = np.ascontiguousarray(rows[:1, :-1]), opened.generate
  if go_on is None:
    return whole.size / _seconds(lambda: opened.logits(whole)), 0.0, 0.0
  return (
    whole.size / _seconds(lambda: go_on(whole, 1)),
    _decoding(go_on, rows[:1]),
    _decoding(go_on, rows[np.arange(16) % len(rows)]) if opened.rows >= 16 else 0.0,
  )


def _decoding(go_on: Callable[[np.ndarray, int], np.ndarray], rows: np.ndarray) -> float:
  """Returns tokens/s of decoding alone: what more tokens take beyond the first."""
  length = rows.shape[1]
  start = np.ascontiguousarray(rows[:, : min(_PROMPT, length // 2)])
  new = min(_NEW, length - start.shape[1] - 1)
  more = _seconds(lambda: go_on(start, 1 + new)) - _seconds(lambda: go_on(start, 1))
  return len(start) * new / more if more > 0 else 0.0  # Too short to be told from noise.


def _seconds(do: Callable[[], object]) -> float:
  do()
  taken = []
  for _ in range(_TURNS):
    began = time.perf_counter()
    do()
    taken.append(time.perf_counter() - began)
  return statistics.median(taken)


def _peak() -> int:
  """Returns the most memory that this process has had, in bytes."""
  status = Path("/proc/self/status")
  if status.exists():
    # What getrusage says there may be that of the process which started this one.
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
  os.environ["TRANSFORMERS_VERBOSITY"] = "error"
  main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

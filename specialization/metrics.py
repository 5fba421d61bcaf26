"""Metrics as JSON lines and TensorBoard events, and progress bars with the time left."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from specialization import artifact

_is_hidden = False


def hide_progress() -> None:
  """Shows no bars from now on: another process shows them."""
  global _is_hidden
  _is_hidden = True


def progress(total: int | None, description: str, unit: str, initial: int = 0) -> tqdm:
  """Returns a progress bar with time left; in a log file it prints a line every ten seconds."""
  terminal = sys.stderr.isatty()
  return tqdm(
    total=total,
    desc=description,
    unit=unit,
    initial=initial,
    unit_scale=True,
    dynamic_ncols=terminal,
    mininterval=0.2 if terminal else 10.0,
    maxinterval=10.0,
    delay=1.0,
    ascii=not terminal,
    disable=_is_hidden,
  )


class Silent:
  """What processes have that write nothing."""

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    pass

  def close(self) -> None:
    pass


class Writer(Silent):
  """Appends scalars of one phase to `metrics.jsonl`, and to TensorBoard and wandb if wanted."""

  def __init__(self, folder: Path, *, from_step: int, tensorboard: bool, wandb_project: str):
    """Lines of steps after `from_step` (of a run that was killed) are dropped; -1: all are."""
    folder.mkdir(parents=True, exist_ok=True)
    self._path = folder / "metrics.jsonl"
    kept = [line for line in read(folder) if line["step"] <= from_step]
    artifact.write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
    self._file = self._path.open("a", buffering=1)
    self._board = None
    self._wandb = None
    if tensorboard:
      from tensorboardX import SummaryWriter

      self._board = SummaryWriter(str(folder), purge_step=from_step + 1, write_to_disk=True)
    if wandb_project:
      import wandb

      self._wandb = wandb.init(project=wandb_project, name=folder.name, dir=str(folder))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    self._file.write(json.dumps({"step": step, **scalars}) + "\n")
    if self._board is not None:
      for name, value in scalars.items():
        self._board.add_scalar(name, value, step)
    if self._wandb is not None:
      self._wandb.log(dict(scalars), step=step)

  def close(self) -> None:
    self._file.close()
    if self._board is not None:
      self._board.close()
    if self._wandb is not None:
      self._wandb.finish()


def read(folder: Path) -> list[dict[str, Any]]:
  """Returns the lines of `metrics.jsonl`; a last line cut by a kill is left out."""
  path = folder / "metrics.jsonl"
  lines = []
  for text in path.read_text().splitlines() if path.exists() else []:
    try:
      lines.append(json.loads(text))
    except json.JSONDecodeError:
      break
  return lines

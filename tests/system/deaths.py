"""Runs a study again and again, each time killed at another moment, and at last to its end.

python deaths.py MOMENT ... -- ARGUMENTS, where a moment is

  prepare:NAME          an artifact's temporary folder is filled but has not its name yet
  between:FOLDER:STEP   a step's metrics are written; an earlier checkpoint is complete
  writing:FOLDER:STEP   the checkpoint of a step is being written in the background
  written:FOLDER:STEP   it has just become complete

Processes are forked after all imports, which take longer than the runs themselves.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import specialization.phases  # noqa: F401  So that forks need not import it.
from specialization import artifact, main, metrics
from specialization.checkpoint import Checkpoints


def die() -> None:
  os.kill(os.getpid(), signal.SIGKILL)


def arrange(moment: str) -> None:
  """Makes this process kill itself at a moment."""
  kind, name, *step = moment.split(":")
  record, write, save = artifact._write_record, metrics.Writer.write, Checkpoints.save

  def recorded(folder: Path, wanted: Any) -> None:
    record(folder, wanted)
    if folder.name.startswith(f".{name}-"):
      die()

  def written(self: metrics.Writer, at: int, scalars: Any) -> None:
    write(self, at, scalars)
    if at == int(step[0]) and name in str(self._path):
      while not any(p.name.isdigit() for p in self._path.parent.glob("checkpoints/*")):
        time.sleep(0.01)
      die()

  def saved(self: Checkpoints, at: int, *args: Any, **kwargs: Any) -> None:
    save(self, at, *args, **kwargs)
    if at == int(step[0]) and name in str(self._folder):
      if kind == "written":
        self.wait()
      die()

  if kind == "prepare":
    artifact._write_record = recorded
  elif kind == "between":
    metrics.Writer.write = written  # type: ignore[method-assign]
  else:
    Checkpoints.save = saved  # type: ignore[method-assign]


def run(moment: str, arguments: list[str]) -> int:
  """Returns the exit status of one run, or minus the signal that ended it."""
  sys.stdout.flush()
  child = os.fork()
  if not child:
    if moment:
      arrange(moment)
    main.main(arguments)
    sys.stdout.flush()
    os._exit(0)
  return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
  cut = sys.argv.index("--")
  for death in [*sys.argv[1:cut], ""]:
    status = run(death, sys.argv[cut + 1 :])
    print(f"{death or 'end'}: {status}", flush=True)
    if status != (-signal.SIGKILL if death else 0):
      sys.exit(f"{death or 'the last run'} ended with status {status}")

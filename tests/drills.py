"""Fault drills: ends training in many ways, goes on, and says what was lost. Minutes.

PYTHONPATH=. python tests/drills.py > docs/faults/drills.md

Each drill trains a tiny model, checkpoints every 25 of 400 steps, ends it somehow, and starts the
same command again. Lost are the steps that had been logged after the checkpoint from which it went
on; that has to be the newest that was complete, and all losses of the run those of one that was
left alone.
"""

import dataclasses
import datetime
import math
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax

import several
import tiny_study
from specialization import metrics

STEPS, EVERY = 400, 25
RUN = "pretrain/dense--b100--s0"
ONE, TWO, FOUR = (1, 2), (2, 1), (4, 1)
Fault = Callable[["Scene"], None]


@dataclasses.dataclass
class Scene:
  """A run under way.

  Attributes:
    study: its folder.
    running: its processes.
    rng: for moments.
  """

  study: Path
  running: list[subprocess.Popen]
  rng: random.Random

  def step(self) -> int:
    """Returns the last step that was logged."""
    lines = metrics.read(self.study / RUN)
    return lines[-1]["step"] if lines else 0

  def until(self, ready: Callable[[], bool]) -> None:
    """Waits while all processes run."""
    for _ in range(60_000):
      if ready():
        return
      assert all(process.poll() is None for process in self.running), "it ended by itself"
      time.sleep(0.002)
    raise AssertionError("the moment did not come")

  def at_random(self) -> None:
    step = self.rng.randrange(EVERY, STEPS - EVERY)
    self.until(lambda: self.step() >= step)

  def while_saving(self) -> None:
    """Waits for a step after which a checkpoint is being written."""
    step = EVERY * self.rng.randrange(2, STEPS // EVERY - 2)
    self.until(lambda: self.step() >= step)
    folder = self.study / RUN / "checkpoints"
    self.until(lambda: any("tmp" in path.name for path in folder.glob("*")))

  def complete(self) -> list[int]:
    """Returns the steps of complete checkpoints, oldest first."""
    folder = self.study / RUN / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def killed(which: int = 0, by: int = signal.SIGKILL, is_saving: bool = False) -> Fault:
  """Sends a signal to one process, at a random step or while a checkpoint is written."""

  def fault(scene: Scene) -> None:
    scene.while_saving() if is_saving else scene.at_random()
    scene.running[which].send_signal(by)

  return fault


def damaged(how: str) -> Fault:
  """Kills, and then damages all large files of the newest checkpoint: some are needed no more."""

  def fault(scene: Scene) -> None:
    scene.until(lambda: len(scene.complete()) == 2 and scene.step() > 2 * EVERY)
    for process in scene.running:
      process.kill()
      process.wait()
    newest = scene.study / RUN / "checkpoints" / str(scene.complete()[-1])
    for path in (p for p in newest.rglob("*") if p.is_file() and p.stat().st_size > 10_000):
      data = bytearray(path.read_bytes())
      if how == "cut":
        data = data[: len(data) // 2]
      else:
        data[len(data) // 2] ^= 255
      path.write_bytes(data)
    if len(scene.running) > 1:
      stopped(scene)

  return fault


def stopped(scene: Scene) -> None:
  """Starts all again, upon which they put the checkpoint aside and end together."""
  count = len(scene.running)
  with several.started(count, 1, arguments(scene.study), scene.study) as up:
    assert all(process.wait(timeout=200) for process in up)


@dataclasses.dataclass(frozen=True)
class Drill:
  """A way to end a run.

  Attributes:
    name: for people.
    layout: processes, and devices of each.
    fault: ends the run.
    before: a command that runs what ends.
    is_lossless: whether it has the time to save.
  """

  name: str
  layout: tuple[int, int]
  fault: Fault
  before: tuple[str, ...] = ()
  is_lossless: bool = False


def limited(scene: Scene) -> None:
  """Leaves room for metrics but not for a checkpoint, and waits for the end that this brings."""
  step = scene.rng.randrange(EVERY, 3 * EVERY)
  scene.until(lambda: scene.step() >= step)
  # Bytes: the metrics of 180 steps, and less than one of a checkpoint's files.
  limit = ["prlimit", f"--pid={scene.running[0].pid}", "--fsize=24000"]
  subprocess.run(limit, check=True)
  scene.running[0].wait(timeout=120)
  assert "while a checkpoint was written" in several.said_by(0, scene.study)


def killed_and_asked_for_another(scene: Scene) -> None:
  """Kills, and then starts another configuration in the same folder."""
  killed()(scene)
  scene.running[0].wait()
  other = [*arguments(scene.study), "--config.pretrain.optimizer.learning_rate=1e-3"]
  with several.started(1, 2, other, scene.study) as (refused,):
    assert refused.wait(timeout=120) == 2


# The system's own clock is everybody's.
SITE = Path(tempfile.gettempdir()) / "clock-that-jumps"
JUMP = """
import pathlib, time
clock, folder = time.time, pathlib.Path(__file__).parent
def jumping():
  if not (folder / "jump").exists():
    return clock()
  (folder / "seen").touch()
  return clock() - 86_400
time.time = jumping
"""


def jumped(scene: Scene) -> None:
  """Kills some steps after the clock went back a day."""
  step = scene.rng.randrange(EVERY, STEPS // 2)
  scene.until(lambda: scene.step() >= step)
  (SITE / "jump").touch()
  scene.until(lambda: scene.step() >= step + 2 * EVERY)
  scene.running[0].kill()
  (SITE / "jump").unlink()
  (SITE / "seen").unlink()


KILL, TERM = signal.SIGKILL, signal.SIGTERM
DRILLS = [
  *[Drill("SIGKILL", ONE, killed())] * 8,
  *[Drill("SIGKILL while a checkpoint is written", ONE, killed(0, KILL, True))] * 6,
  *[Drill("SIGTERM", ONE, killed(0, TERM), is_lossless=True)] * 4,
  *[Drill("SIGTERM while a checkpoint is written", ONE, killed(0, TERM, True), is_lossless=True)]
  * 2,
  *[Drill("SIGKILL of the second of two processes", TWO, killed(1))] * 3,
  *[Drill("SIGKILL of the first of two, the coordinator", TWO, killed(0))] * 3,
  Drill("SIGKILL of one of four while a checkpoint is written", FOUR, killed(2, KILL, True)),
  *[Drill("SIGTERM to the second of two processes", TWO, killed(1, TERM), is_lossless=True)] * 2,
  Drill("SIGTERM to one of four processes", FOUR, killed(3, TERM), is_lossless=True),
  *[Drill("SIGKILL; files of the newest checkpoint cut short", ONE, damaged("cut"))] * 2,
  *[Drill("SIGKILL; bytes of the newest checkpoint flipped", ONE, damaged("flipped"))] * 2,
  Drill("SIGKILL of both; bytes of the newest checkpoint flipped", TWO, damaged("flipped")),
  *[Drill("disk full", ONE, limited)] * 2,
  Drill("SIGKILL; another configuration started there", ONE, killed_and_asked_for_another),
  *[
    Drill(
      "clock jumps back a day; SIGKILL",
      ONE,
      jumped,
      ("env", f"PYTHONPATH={SITE}:{tiny_study.ROOT}"),
    )
  ]
  * 2,
]


def arguments(study: Path) -> list[str]:
  fields = dict(pretrain__horizon__steps=STEPS, pretrain__checkpoint_every=EVERY)
  line = tiny_study.arguments("pretrain", study.parent / "corpus", study, **fields)
  return [*line, "--only=dense", "--config.metrics.tensorboard=False"]


def perform(drill: Drill, study: Path, whole: list[float], rng: random.Random) -> list[str]:
  """Returns a row of the table.

  Raises:
    AssertionError: something was lost that need not have been.
  """
  count, devices = drill.layout
  line = arguments(study)
  with several.started(count, devices, line, study, before=drill.before) as up:
    scene = Scene(study, up, rng)
    drill.fault(scene)
    began = time.monotonic()
    for process in up:
      process.wait(timeout=200)
    took = time.monotonic() - began
  ended, said = scene.step(), [several.said_by(i, study) for i in range(count)]
  complete = scene.complete()
  again = several.run(count, devices, line, study)
  (found,) = re.findall(r"starting from (?:its own checkpoint of step (\d+)|scratch)", again)
  begun = int(found or 0)
  newest = complete[-2] if "put aside" in again else complete[-1] if complete else 0
  assert begun == newest, f"{drill.name}: it went on from {begun}, not {newest}"
  lost = ended - begun
  put_aside = any((study / RUN).glob("damaged-*"))
  # One checkpoint may be under way, and the next waits for it.
  assert lost <= (0 if drill.is_lossless else (2 + put_aside) * EVERY), lost
  losses = [line["loss"] for line in metrics.read(study / RUN)]
  assert len(losses) == STEPS
  assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(losses, whole, strict=True))
  statuses = ", ".join(str(process.returncode) for process in up)
  told = next((text for text in map(sentence, said) if text), "") or sentence(again)
  told = told or f"nothing; then: {re.search(r'starting from .*', again)[0]}"
  return [
    drill.name,
    str(count),
    f"{ended}",
    f"{begun}",
    f"{lost}",
    statuses,
    f"{took:.0f} s",
    told,
  ]


def sentence(text: str) -> str:
  """Returns what a run said of its end, or of what it found."""
  for line in reversed(text.splitlines()):
    if re.search(r"^error|terminated|stops|put aside|another task died", line):
      short = re.sub(r"/\S*/", "", line)
      return short if len(short) < 160 else f"{short[:160]}..."
  return ""


def main() -> None:
  """Prints the table."""
  folder, rng = Path(tempfile.mkdtemp()), random.Random(0)
  jax.config.update("jax_compilation_cache_dir", str(folder / "cache"))
  tiny_study.write_corpus(folder / "corpus")
  SITE.mkdir(exist_ok=True)
  (SITE / "sitecustomize.py").write_text(JUMP)
  several.run(1, 2, arguments(folder / "whole"), folder / "whole-said")
  whole = [line["loss"] for line in metrics.read(folder / "whole" / RUN)]
  print(
    f"{len(DRILLS)} drills, {datetime.date.today()}: {STEPS} steps, a checkpoint every {EVERY}.\n"
  )
  head = [
    "fault",
    "processes",
    "ended at",
    "went on from",
    "lost",
    "exit status",
    "until all ended",
  ]
  print(f"| {' | '.join([*head, 'it said'])} |\n|---|{'---:|' * 6}---|", flush=True)
  for i, drill in enumerate(DRILLS):
    study = folder / f"drill-{i}"
    shutil.copytree(folder / "whole" / "data", study / "data")
    print(f"| {' | '.join(perform(drill, study, whole, rng))} |", flush=True)
  shutil.rmtree(folder)


if __name__ == "__main__":
  main()

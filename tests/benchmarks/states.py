"""What saving, restoring and many devices cost here: PYTHONPATH=. python tests/benchmarks/states.py

Parts, both if none is named: saves (the stall that a checkpoint brings training, written in the
background or waited for, and restores, against size), devices (throughput of one machine that
makes believe it has 1, 2, 4 or 8 devices). Prints Markdown. Ten minutes; nothing else may run.
"""

import contextlib
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import specialization
from specialization.main import use_huge_pages

CONFIGS = Path(specialization.__file__).parents[1] / "configs"
SIZES = {"5M": (256, 4, 1024, 16), "25M": (512, 6, 1792, 8), "98M": (1024, 6, 3072, 2)}  # and rows
TURNS, STEPS = 3, 12
DEVICES = (1, 2, 4, 8)
FAMILIES = {"slm": "fsdp", "slm_mix": "experts", "slm_pn": "experts"}


class Training:
  """A method's steps on random tokens, as the loop of training has them."""

  def __init__(self, method: str, **changes: Any):
    import jax

    from specialization import main
    from specialization.phases import build, trial
    from specialization.train import state as train_state

    config = main.load_config(str(CONFIGS / "quickstart.py"), changes)
    row = config.methods[method]
    self.trainer = build.pretrainer(config, row)
    with jax.set_mesh(self.trainer.mesh):
      key = jax.random.key(0)
      self.batch = trial.draw(self.trainer, row, config.sequence_length, key)
      t = self.trainer
      self.state = train_state.create(t.family, t.optimizer, t.like, key)

  def run(self, steps: int, save: Any = None) -> float:
    """Returns the seconds of some steps; after the second one `save` is called on the state."""
    import jax

    with jax.set_mesh(self.trainer.mesh):
      before, began = None, time.monotonic()
      for i in range(steps):
        self.state, measured = self.trainer.step(self.state, self.batch)
        if before is not None:
          jax.block_until_ready(before)
        before = measured
        if save is not None and i == 1:
          save(self.state)
      jax.block_until_ready((self.state, before))
    return time.monotonic() - began


def training(size: str) -> Training:
  d_model, n_layers, d_mlp, rows = SIZES[size]
  sizes = dict(d_model=d_model, n_layers=n_layers, d_mlp=d_mlp, n_heads=d_model // 64)
  fields = {f"sizes.slm.{name}": n for name, n in sizes.items()}
  fields["sizes.slm.n_kv_heads"] = fields["sizes.slm.n_heads"]
  fields |= {"methods.slm.pretrain.batch_rows": rows, "compute.microbatches": 1}
  return Training("slm", **fields)


def bytes_in(folder: Path) -> int:
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def forget(folder: Path) -> None:
  """Lets the system forget what it keeps of files in memory."""
  os.sync()
  for path in folder.rglob("*"):
    if path.is_file():
      with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def checkpoints() -> Iterator[tuple[Any, Path]]:
  from specialization.checkpoint import Checkpoints

  with tempfile.TemporaryDirectory() as folder:
    found = Checkpoints(Path(folder) / "checkpoints")
    yield found, Path(folder)
    found.close()


def saves_and_restores() -> None:
  import jax

  head = ("parameters", "checkpoint", "a step", "`save` returns after", "it delays 12 steps by")
  print(f"\n| {' | '.join(head)} | waited for | restored from disk | from memory |")
  print("|---|---:|---:|---:|---:|---:|---:|---:|")
  for size in SIZES:
    run = training(size)
    run.run(3)
    turns: dict[str, list[float]] = {"none": [], "background": [], "waited": []}
    with checkpoints() as (found, folder):
      step, calls = 0, list[float]()

      def save(state: Any, calls: list[float] = calls) -> None:
        nonlocal step
        jax.block_until_ready(state)  # It would wait for the step.
        step, began = step + 1, time.monotonic()
        found.save(step, state, {})
        calls.append(time.monotonic() - began)

      def save_and_wait(state: Any) -> None:
        save(state)
        found.wait()

      save(run.state)  # which compiles
      for _ in range(TURNS):
        turns["none"].append(run.run(STEPS))
        turns["background"].append(run.run(STEPS, save))
        found.wait()
        turns["waited"].append(run.run(STEPS, save_and_wait))
      times = []
      for cold in (True, False):
        if cold:
          forget(folder)
        began = time.monotonic()
        found.resume(run.trainer.like)
        times.append(time.monotonic() - began)
      written = bytes_in(folder / "checkpoints" / str(step))
    plain = statistics.median(turns["none"])
    background, waited = (
      statistics.median(a - b for a, b in zip(turns[how], turns["none"], strict=True))
      for how in ("background", "waited")
    )
    row = (
      size,
      f"{written / 1e6:.0f} MB",
      f"{plain / STEPS:.3f} s",
      f"{statistics.median(calls[1:]):.2f} s",
      f"{background:.2f} s",
      f"{waited:.2f} s",
      *(f"{t:.2f} s ({written / t / 1e6:.0f} MB/s)" for t in times),
    )
    print(f"| {' | '.join(row)} |", flush=True)


def on_devices() -> None:
  print(f"\n| tokens/s on | {' | '.join(f'{n} devices' for n in DEVICES)} |")
  print(f"|---|{'---:|' * len(DEVICES)}")
  for method, mesh in FAMILIES.items():
    found = []
    for count in DEVICES:
      said = subprocess.run(
        [sys.executable, __file__, "throughput", method, mesh],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(count), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
      )
      found.append(f"{float(said.stdout.splitlines()[-1]):,.0f}")
    print(f"| {method}, mesh {mesh} | {' | '.join(found)} |", flush=True)


def throughput(method: str, mesh: str) -> None:
  from specialization import main

  sizes = {f"mesh.{axis}": n for axis, n in main.preset(CONFIGS, mesh).items()}
  run = Training(method, **sizes, **{"compute.microbatches": 1})
  run.run(3)
  seconds = statistics.median(run.run(5) for _ in range(5)) / 5
  print(run.trainer.tokens_per_step / seconds)


PARTS = {"saves": saves_and_restores, "devices": on_devices}

if __name__ == "__main__":
  use_huge_pages()
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  if sys.argv[1:2] == ["throughput"]:
    throughput(*sys.argv[2:])
  else:
    for part in sys.argv[1:] or PARTS:
      PARTS[part]()

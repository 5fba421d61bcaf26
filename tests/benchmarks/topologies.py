"""Tables of what training steps take on TPUs, none of which is there. A quarter of an hour.

PYTHONPATH=. python tests/benchmarks/topologies.py > docs/topologies/tables.md
"""

import datetime
import importlib.metadata
import time
from collections.abc import Iterator
from pathlib import Path

import jax

import specialization
from specialization import budgets, main
from specialization.phases import build, topology
from specialization.phases.finding import size

CONFIGS = Path(specialization.__file__).parents[1] / "configs"
# Method, chips, mesh, rows of 1,024 tokens.
MODELS = [
  ("slm", "v5e:4x4", "data", 128),
  ("slm_mix_16", "v5e:4x4", "experts", 128),
  ("slm_pn_32", "v5e:4x4", "experts", 128),
  ("slm_pn_64", "v5e:4x4", "experts", 128),
  ("slm", "v5e:4x8", "data", 128),
  ("slm_pn_32", "v5e:4x8", "experts", 128),
  ("slm_pn_64", "v5e:4x8", "experts", 128),
  ("slm", "v5e:4x8", "data", 256),
  ("slm_pn_64", "v5e:4x8", "experts", 256),
  ("slm", "v5p:2x2x4", "data", 128),
  ("slm_pn_32", "v5p:2x2x4", "experts", 128),
  ("slm_pn_64", "v5p:2x2x4", "experts", 128),
  ("slm_mix_256", "v6e:8x8", "experts", 1024),
  ("llm", "v5e:4x4", "fsdp", 128),
  ("llm", "v5p:2x2x4", "fsdp", 128),
  ("dense_7b", "v5p:4x4x4", "fsdp", 128),
  ("dense_7b", "v6e:8x8", "fsdp", 256),
  ("dense_7b", "v5e:16x16", "fsdp_model", 128),
]
# And what the config leaves to choose, on chips where it matters.
CHOICES = [
  (method, chips, mesh, {f"compute.{field}": value})
  for method, chips, mesh in (("slm", "v5e:4x4", "data"), ("llm", "v5e:4x4", "fsdp"))
  for field, value in (
    ("remat", "none"),
    ("remat", "dots"),
    ("remat", "full"),
    ("attention", "reference"),
    ("attention", "splash"),
  )
]
HEAD = ("model", "parameters", "chips", "mesh", "tokens a step")
TAKES = ("memory of a chip", "least time of a step", "products", "traffic", "collectives")


def examined(
  method: str, chips: str, mesh: str, changes: dict[str, object]
) -> tuple[build.Trainer, topology.Step]:
  """Returns a method's trainer and what its compiled step takes."""
  sizes = {f"mesh.{axis}": n for axis, n in main.preset(CONFIGS, mesh).items()}
  config = main.load_config(str(CONFIGS / "topologies.py"), sizes | changes)
  row = config.methods[method]
  trainer = build.pretrainer(config, row, devices=topology.find_devices(chips))
  return trainer, topology.examine(trainer, row, config.sequence_length)


def takes(trainer: build.Trainer, step: topology.Step) -> list[str]:
  chip = budgets.CHIPS[trainer.mesh.devices.flat[0].device_kind]
  times = (step.seconds, step.products, step.traffic, step.talking)
  return [f"{size(step.memory)} of {size(chip.memory)}", *(f"{1e3 * t:.3g} ms" for t in times)]


def line(cells: Iterator[str] | list[str]) -> None:
  print(f"| {' | '.join(cells)} |", flush=True)


def head(cells: tuple[str, ...], words: int) -> None:
  line(list(cells))
  line(["---"] * words + ["---:"] * (len(cells) - words))


def write() -> None:
  versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu"))
  print(f"{datetime.date.today()}, {versions}; compiled on a CPU.\n\n## Models\n")
  head((*HEAD, *TAKES, "MFU at most", "of the SLM's time", "said over each mesh axis"), 1)
  small: dict[tuple[str, int], float] = {}
  for method, chips, mesh, rows in MODELS:
    trainer, step = examined(method, chips, mesh, {f"methods.{method}.pretrain.batch_rows": rows})
    assert not step.whole, step.whole
    if method == "slm":
      small[chips, rows] = step.seconds
    is_small = method.startswith("slm") and (chips, rows) in small
    line(
      [
        method,
        budgets.readable(trainer.family.parameters()),
        chips,
        mesh,
        f"{rows * 1024:,}",
        *takes(trainer, step),
        f"{step.mfu:.0%}",
        f"{step.seconds / small[chips, rows]:.2f}" if is_small else "",
        topology.told(step.talks),
      ]
    )
  print("\n## What the config leaves to choose\n")
  head(("model", "chips", "mesh", "field", *TAKES[:-1]), 4)
  for method, chips, mesh, changes in CHOICES:
    (field, value), *_ = changes.items()
    taken = takes(*examined(method, chips, mesh, changes))
    line([method, chips, mesh, f"{field}={value}", *taken[:-1]])


if __name__ == "__main__":
  jax.config.update("jax_platforms", "cpu")
  began = time.monotonic()
  write()
  print(f"\nMade in {time.monotonic() - began:.0f} s.")

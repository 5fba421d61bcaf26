"""What a training step takes of the devices that are here: memory, and time."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specialization import budgets, processes
from specialization.config import Config
from specialization.method import MethodConfig
from specialization.phases import topology
from specialization.phases.build import Trainer
from specialization.phases.finding import Finding, size
from specialization.train import state as train_state
from specialization.train.step import Batch

_STEPS, _SECONDS = 3, 3.0  # that are timed at least


def device_memory() -> int | None:
  """Returns the bytes that a device of the first process can hold, if known.

  CPU devices share those that are free on its host.
  """
  limit: int | None = processes.of_writer(_local_memory)
  return limit


def _local_memory() -> int | None:
  device = jax.local_devices()[0]
  stats = device.memory_stats()
  if stats and "bytes_limit" in stats:
    return stats["bytes_limit"]
  info = Path("/proc/meminfo")
  if device.platform == "cpu" and info.exists():
    for line in info.read_text().splitlines():
      if line.startswith("MemAvailable:"):
        return 1024 * int(line.split()[1]) // jax.local_device_count()
  return None


def compile_step(trainer: Trainer, row: MethodConfig, length: int) -> Any:
  """Returns the compiled step of a method's pretraining."""
  with jax.set_mesh(trainer.mesh):
    batch = topology.abstract_batch(trainer, row, length)
    return trainer.step.lower(trainer.like, batch).compile()  # type: ignore[attr-defined]


def memory(name: str, trainer: Trainer, step: Any) -> Finding:
  """Returns what a compiled step needs on each device: state, and what else it has at once."""
  found, limit, subject = step.memory_analysis(), device_memory(), f"memory of {name}"
  if not found:
    return Finding(subject, "not known: this platform does not say what a step takes")
  needed = topology.memory_of(step)
  text = (
    f"a training step takes {size(needed)} on each device: {size(found.argument_size_in_bytes)} of"
    f" state and batch, {size(found.temp_size_in_bytes)} of gradients, activations and the like"
  )
  if limit is not None and needed > limit:
    text += (
      f", of the {size(limit)} that it has: lower batch_rows, raise compute.microbatches or set"
      " compute.remat."
    )
    return Finding(subject, text, True)
  return Finding(subject, text)


def draw(trainer: Trainer, row: MethodConfig, length: int, key: jax.Array) -> Batch:
  """Returns a pretraining batch of random tokens on the devices of the mesh."""
  vocab_size = trainer.family.transformer.vocab_size
  like = topology.abstract_batch(trainer, row, length)

  def batch(key: jax.Array) -> Batch:
    tokens = jax.random.randint(key, like["tokens"].shape, 0, vocab_size, np.int32)
    cluster = jnp.arange(row.pretrain.groups, dtype=np.int32) % row.experts
    return {"tokens": tokens, "cluster": cluster, "mask": jnp.ones(like["mask"].shape, bool)}

  drawn: Batch = jax.jit(batch, out_shardings=trainer.where_batch)(key)
  return drawn


def seconds(trainer: Trainer, row: MethodConfig, length: int, step: Any) -> float:
  """Returns what a method's compiled step takes, on random tokens."""
  with jax.set_mesh(trainer.mesh):
    key = jax.random.key(0)
    batch = draw(trainer, row, length, key)
    state = train_state.create(trainer.family, trainer.optimizer, trainer.like, key)
    state, measured = step(state, batch)
    jax.block_until_ready(measured)
    steps, spent, started = 0, 0.0, time.monotonic()
    # Processes must agree on the number of steps, and their clocks do not.
    while steps < _STEPS or (spent < _SECONDS and jax.process_count() == 1):
      before = measured
      state, measured = step(state, batch)
      jax.block_until_ready(before)  # One step ahead, as in training.
      steps, spent = steps + 1, time.monotonic() - started
    jax.block_until_ready(measured)
    return (time.monotonic() - started) / steps


def speed(name: str, config: Config, trainer: Trainer, step: Any) -> Finding:
  """Returns how fast a method's compiled step is."""
  taken = seconds(trainer, config.methods[name], config.sequence_length, step)
  rate = trainer.flops_per_step / taken / trainer.mesh.size
  chip = budgets.CHIPS.get(jax.devices()[0].device_kind)
  text = f"{rate:.3g} FLOP/s of each device in training {name}"
  text += f", {rate / chip.flops:.1%} of its peak" if chip else ""
  text += f"; a step takes {taken:.3g} s"
  return Finding("speed", f"{text}: --config.pretrain.horizon.sustained_flops={rate:.3g}")

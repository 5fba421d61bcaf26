"""`doctor --topology`: training steps compiled for TPUs that are not there, and what they take.

The bound on a step's time: each instruction takes what its products or its traffic with main memory
take, whichever is longer; all collectives together hide behind these or take longer, one after the
other on all links between their chips. No step is faster on such chips, and kernels that are not
perfect, latencies and waits make it slower. MFU counts model FLOPs (see budgets.py).
"""

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from specialization import budgets, collectives, hlo, sharding
from specialization.config import Config
from specialization.errors import UserError, first_line
from specialization.method import MethodConfig
from specialization.phases.build import Trainer, make_method, pretrainer, pretraining_mesh
from specialization.phases.finding import Finding, size
from specialization.study import methods


@dataclasses.dataclass(frozen=True)
class Step:
  """What one training step takes on each chip.

  Attributes:
    memory: bytes, of arguments, results and temporaries together.
    products: seconds of its matrix products at the chip's peak.
    traffic: seconds of all that moves between main memory and the chip.
    serial: seconds of its instructions one after the other.
    talks: its collectives.
    talking: their seconds.
    mfu: model FLOPs over what the chip could do in `seconds`, at most.
    whole: what the compiler says of arrays that it makes whole on each chip, since it knows no
      other way from one sharding to the next.
  """

  memory: int
  products: float
  traffic: float
  serial: float
  talks: tuple[collectives.Talk, ...]
  talking: float
  mfu: float
  whole: tuple[str, ...]

  @property
  def seconds(self) -> float:
    """Returns what a step takes at least."""
    return max(self.products, self.traffic, self.serial, self.talking)


def findings(config: Config, topology: str, only: str = "*") -> Iterator[Finding]:
  """Yields one line or more for each method that is pretrained, of those that a pattern names."""
  try:
    devices = find_devices(topology)
    mesh, kind = sharding.make_mesh(config.mesh, devices), devices[0].device_kind
  except UserError as error:
    yield Finding("topology", str(error), True)
    return
  if kind not in budgets.CHIPS:
    text = f"what a {kind} can do is not known: choose v4, v5e, v5p or v6e."
    yield Finding("topology", text, True)
    return
  where = f"{topology}, {len(devices)} x {kind}; mesh {sharding.sizes(mesh)}"
  yield Finding("topology", where)
  for name in methods(config, only):
    if config.methods[name].pretrains:
      yield from _method(config, name, config.methods[name], devices)


def describe(config: Config, count: int) -> str:
  """Returns where each parameter of each method's pretraining lies.

  Args:
    config: of the study.
    count: of devices, of which there need be none; 0: those that are there.

  Raises:
    UserError: something does not divide over them.
  """
  texts = []
  for name, row in config.methods.items():
    mesh, family = pretraining_mesh(config, row, count or None), make_method(config, row)
    sharding.shardings(mesh, family.axes(), family.shapes())
    where = sharding.describe(mesh, family.axes(), family.shapes())
    texts.append(f"{name} on {sharding.sizes(mesh)}:\n{where}")
  return "\n\n".join(texts)


def find_devices(topology: str) -> Any:
  """Returns the devices of a TPU topology such as v5p:4x4x4, none of which need be there.

  Raises:
    UserError: there is no such topology, or no compiler for TPUs.
  """
  # The compiler asks the machine what it is, which no machine without a TPU can say, and keeps
  # others from the TPU, which nobody wants here.
  asks = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  }
  os.environ |= {name: value for name, value in asks.items() if name not in os.environ}
  from jax.experimental import topologies

  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
    raise UserError(
      f"--topology={topology} cannot be compiled for ({first_line(error)}): name one such as"
      " v5e:4x4, v5p:4x4x4 or v6e:8x8, and `pip install libtpu`."
    ) from error


def _method(config: Config, name: str, row: MethodConfig, devices: Any) -> Iterator[Finding]:
  subject, chip = f"method {name}", budgets.CHIPS[devices[0].device_kind]
  started = time.monotonic()
  try:
    trainer = pretrainer(config, row, devices=devices)
    step = examine(trainer, row, config.sequence_length)
  except UserError as error:
    yield Finding(subject, str(error), True)
    return
  parameters = budgets.readable(trainer.family.parameters())
  seconds = time.monotonic() - started
  text = f"{parameters} parameters; {size(step.memory)} of {size(chip.memory)} on each chip"
  yield Finding(subject, f"{text}; compiled in {seconds:.0f} s")
  yield Finding(subject, f"collectives: {told(step.talks)}")
  yield Finding(
    subject,
    f"a step takes at least {1e3 * step.seconds:.3g} ms ({1e3 * step.products:.3g} of products,"
    f" {1e3 * step.traffic:.3g} of memory, {1e3 * step.serial:.3g} of both in turn,"
    f" {1e3 * step.talking:.3g} of collectives): MFU at most {step.mfu:.1%}",
  )
  if step.whole:
    text = f"{len(step.whole)} arrays are made whole on each chip: choose another mesh."
    yield Finding(subject, f"{text} The first: {step.whole[0]}", True)


def told(talks: tuple[collectives.Talk, ...]) -> str:
  """Returns bytes by mesh axes and kind, scalars aside."""
  total: Counter[tuple[str, str]] = Counter()
  for talk in talks:
    if not talk.is_scalar:
      total["+".join(talk.axes), talk.kind] += int(talk.bytes)
  scalars = Counter("+".join(talk.axes) for talk in talks if talk.is_scalar)
  found = [f"{axes} {kind} {size(n)}" for (axes, kind), n in sorted(total.items())]
  found += [f"{axes} {n} of scalars" for axes, n in sorted(scalars.items())]
  return ", ".join(found) or "none"


def examine(trainer: Trainer, row: MethodConfig, length: int) -> Step:
  """Compiles a method's pretraining step for the devices of its mesh.

  Raises:
    UserError: it does not fit their memory.
  """
  chip = budgets.CHIPS[trainer.mesh.devices.flat[0].device_kind]
  with jax.set_mesh(trainer.mesh):
    try:
      batch = abstract_batch(trainer, row, length)
      lowered = trainer.step.lower(trainer.like, batch)  # type: ignore[attr-defined]
      with made_whole() as whole, warnings.catch_warnings():
        # JAX can keep programs for chips that are not there, but not read them.
        warnings.filterwarnings("ignore", ".*persistent compilation cache")
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      raise UserError(
        f"a training step does not fit a chip's {size(chip.memory)} ({first_line(error)}):"
        " raise mesh.fsdp or compute.microbatches, set compute.remat=full or lower batch_rows."
      ) from error
  program = hlo.Program(compiled.as_text())
  talks = tuple(collectives.talks(program, trainer.mesh))
  serial = moved = 0.0
  for instruction, flops, traffic, times in program.costs():
    moved += times * traffic
    if not instruction.is_ahead:
      serial += times * max(flops / chip.flops, traffic / chip.bandwidth)
  assert chip.links is not None
  where = [device.coords for device in trainer.mesh.devices.flat]
  step = Step(
    memory=memory_of(compiled),
    products=program.flops() / chip.flops,
    traffic=moved / chip.bandwidth,
    serial=serial,
    talks=talks,
    talking=sum(collectives.seconds(talk, where, chip.links) for talk in talks),
    mfu=0.0,
    whole=tuple(whole),
  )
  of_chip = trainer.flops_per_step / trainer.mesh.size / chip.flops
  return dataclasses.replace(step, mfu=of_chip / step.seconds)


def memory_of(compiled: Any) -> int:
  """Returns the bytes that a compiled step takes on each device: arguments, results, the rest."""
  found = compiled.memory_analysis()
  results: int = found.output_size_in_bytes - found.alias_size_in_bytes
  return found.argument_size_in_bytes + results + found.temp_size_in_bytes


@contextlib.contextmanager
def made_whole() -> Iterator[list[str]]:
  """Yields a list that afterwards has what the compiler said of arrays that it makes whole.

  It is not Python, and writes to the standard error of the process.
  """
  said: list[str] = []
  with tempfile.TemporaryFile("w+") as log:
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(log.fileno(), 2)
    try:
      yield said
    finally:
      os.dup2(before, 2)
      os.close(before)
      log.seek(0)
      text = log.read()
      if sys.exception() is not None:
        sys.stderr.write(text)
      said += re.findall("Involuntary full rematerialization.*", text)


def abstract_batch(trainer: Trainer, row: MethodConfig, length: int) -> dict[str, Any]:
  """Returns a pretraining batch as ShapeDtypeStructs that carry their shardings."""
  groups, rows = row.pretrain.groups, row.pretrain.batch_rows // row.pretrain.groups
  shapes = {
    "tokens": ((groups, rows, length + 1), jnp.int32),
    "cluster": ((groups,), jnp.int32),
    "mask": ((groups, rows, length), jnp.bool_),
  }
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=trainer.where_batch[name])
    for name, (shape, dtype) in shapes.items()
  }

"""Phase `doctor`: what this machine can do for a config, and what stands in the way."""

import importlib.metadata
import itertools
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from specialization import attention, budgets, processes, sharding
from specialization.config import Config
from specialization.data import sentence, sources
from specialization.errors import UserError
from specialization.phases import topology, trial
from specialization.phases.build import (
  Trainer,
  fine_tuner,
  flat_mesh,
  make_evaluator,
  pretrainer,
)
from specialization.phases.finding import Finding, size
from specialization.strict import to_dict
from specialization.study import cells, runs

PACKAGES = ("specialization", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


def run(config: Config, workdir: Path | None, target: str = "", only: str = "*") -> int:
  """Prints the findings as they come and returns the exit status: 1 if there is a problem.

  Args:
    config: of the study.
    workdir: where it would go, or None.
    target: a TPU topology to compile for, instead of a look at this machine; "": none.
    only: pattern of the methods that are compiled for it.
  """
  problems = 0
  processes.agree(["doctor", to_dict(config), str(workdir), target, only])
  found = topology.findings(config, target, only) if target else _findings(config, workdir)
  for finding in found:
    print(finding, flush=True)
    problems += finding.is_problem
  print(f"doctor: {problems or 'no'} problem{'s' * (problems > 1)} found.", flush=True)
  return int(problems > 0)


def examine(config: Config, workdir: Path | None) -> list[Finding]:
  """Returns all findings; runs a few steps of the first method, and changes nothing.

  Args:
    config: of the study.
    workdir: where it would go, or None.
  """
  return list(_findings(config, workdir))


def _findings(config: Config, workdir: Path | None) -> Iterator[Finding]:
  found = [f"{name} {_version(name)}" for name in PACKAGES]
  yield Finding("versions", ", ".join([f"python {platform.python_version()}", *found]))
  trainers: dict[str, Trainer] = {}
  yield (devices := _devices())
  if not devices.is_problem:
    yield (mesh := _mesh(config))
    if not mesh.is_problem:
      for name in config.methods:
        yield _method(config, name, trainers)
  yield _cache(config)
  yield from _sources(config)
  if config.clusters.embedder == "sentence_bert":
    yield _encoder(config.clusters.encoder)
  if refused := _refusal(lambda: cells(config)):
    yield Finding("study", refused, True)
  elif workdir is not None:
    yield _disk(config, workdir, trainers)
  fitting = {}
  for name, trainer in trainers.items():
    if not config.methods[name].pretrains:
      continue
    step = trial.compile_step(trainer, config.methods[name], config.sequence_length)
    yield (fit := trial.memory(name, trainer, step))
    if not fit.is_problem:
      fitting[name] = step
  for name, step in itertools.islice(fitting.items(), 1):
    yield trial.speed(name, config, trainers[name], step)


def _refusal(make: Callable[[], object]) -> str | None:
  """Returns the sentence with which something refuses to be made."""
  try:
    make()
  except UserError as error:
    return str(error)
  return None


def _version(name: str) -> str:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return "(not installed)"  # As this project, where it runs from its folder.


def _devices() -> Finding:
  try:
    devices = jax.devices()
  except RuntimeError as error:
    reason = str(error).splitlines()[0]
    text = f"JAX cannot start ({reason}): mend the driver, or set JAX_PLATFORMS=cpu for the CPU."
    return Finding("devices", text, True)
  text = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
  if (memory := trial.device_memory()) is not None:
    text += f" with {size(memory)} of memory each"
  count = jax.process_count()
  if count > 1:
    text += f" in {count} processes, which reach each other"
  return Finding("devices", text)


def _mesh(config: Config) -> Finding:
  try:
    mesh = sharding.make_mesh(config.mesh)
  except UserError as error:
    return Finding("mesh", str(error), True)
  return Finding("mesh", sharding.sizes(mesh))


def _method(config: Config, name: str, trainers: dict[str, Trainer]) -> Finding:
  """Builds what the method's phases will, and adds its trainer if its state fits the devices."""
  row, length, flat = config.methods[name], config.sequence_length, flat_mesh(config)
  subject = f"method {name}"
  try:
    trainer = pretrainer(config, row)
    transformer = trainer.family.transformer
    distillation = config.distillation if row.teacher else None
    fine_tuner(transformer, config.specialize.train, length, flat, 1, 1.0, distillation)
    make_evaluator(transformer, length, config.evaluation_rows, flat)
  except UserError as error:
    return Finding(subject, str(error), True)
  params, moments = map(bytes_per_device, (trainer.like.params, trainer.like.opt_state))
  text = (
    f"{size(params)} of parameters, {size(params)} of gradients and {size(moments)} of"
    " optimizer state on each device"
  )
  limit = trial.device_memory()
  if limit is not None and 2 * params + moments > limit:
    text += (
      f" are more than its {size(limit)} of memory: raise mesh.fsdp (more devices) or make"
      f" sizes.{row.size} smaller."
    )
    return Finding(subject, text, True)
  trainers[name] = trainer
  return Finding(subject, text + _faster(trainer, length))


def _faster(trainer: Trainer, length: int) -> str:
  """Returns which attention would be better for these devices than the one that was chosen."""
  transformer, kind = trainer.family.transformer, jax.devices()[0].platform
  parts = sharding.parts(trainer.mesh, "heads")
  found = attention.kernel_for(transformer.compute, transformer.config, length, kind, parts)
  is_better = found not in ("", transformer.compute.attention)
  return f"; faster here: --config.compute.attention={found}" if is_better else ""


def bytes_per_device(tree: Any) -> int:
  """Returns what one device holds of a tree of ShapeDtypeStructs that carry their shardings."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def _cache(config: Config) -> Finding:
  subject, folder = "compilation cache", Path(config.compilation_cache).expanduser()
  if processes.must_compile_anew():
    return Finding(subject, "none: several processes on CPUs cannot use one")
  if not config.compilation_cache:
    return Finding(subject, "none, so that every start compiles anew")
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      return Finding(subject, str(folder))
  except OSError as error:
    text = (
      f"{folder} cannot be written ({error.strerror}): set compilation_cache to a folder that can"
      " be, or to '' for none."
    )
    return Finding(subject, text, True)


def _sources(config: Config) -> Iterator[Finding]:
  parts = {"data.generic": config.data.generic}
  parts |= {f"data.domains.{name}": domain for name, domain in config.data.domains.items()}
  readable: list[str] = []
  for part, domain in parts.items():
    if not domain.train:
      yield Finding("sources", f"{part}.train has none: give it at least one.", True)
    for split in ("train", "validation", "test"):
      for spec in getattr(domain, split):
        if refused := _source(spec, f"{part}.{split}"):
          yield Finding("sources", refused, True)
        else:
          readable.append(spec)
  remote = sum(spec.startswith("hub:") for spec in readable)
  text = f"{len(readable)} are there" + f", {remote} of them on the hub, unseen" * (remote > 0)
  yield Finding("sources", text)


def _source(spec: str, where: str) -> str | None:
  # Either is the quick one: an identity reads of every file, the corpus' groups all of it.
  look = sources.identity if spec.startswith("embedded:") else sources.groups
  return _refusal(lambda: look(spec, where))


def _encoder(spec: str) -> Finding:
  if spec.startswith("hub:"):  # To look for it is to fetch it.
    return Finding("encoder", f"{spec}, on the hub, unseen")
  refused = _refusal(lambda: sentence.find(spec))
  return Finding("encoder", refused or f"{spec} is there", refused is not None)


def _disk(config: Config, workdir: Path, trainers: Mapping[str, Trainer]) -> Finding:
  above = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists())
  if not above.is_dir() or not os.access(above, os.W_OK):
    text = f"{above} is no folder that can be written: choose another --workdir."
    return Finding("workdir", text, True)
  free = shutil.disk_usage(above).free
  if not trainers:
    return Finding("workdir", f"{workdir} has {size(free)} free")
  needed = max(0, _checkpoints(config, trainers) - _present(workdir))
  if needed > free:
    text = (
      f"{workdir} has {size(free)} free and checkpoints take up to {size(needed)} more: free some"
      " room or choose another --workdir."
    )
    return Finding("workdir", text, True)
  text = f"{workdir} has {size(free)} free; checkpoints take up to {size(needed)} more"
  return Finding("workdir", text)


def _checkpoints(config: Config, trainers: Mapping[str, Trainer]) -> int:
  """Returns the bytes of all checkpoints of a study, and of the largest one while it is written."""
  total = largest = 0
  chosen = cells(config)
  pretrained = runs(config, chosen, "*")
  for name, trainer in trainers.items():
    row, transformer = config.methods[name], trainer.family.transformer
    small = budgets.parameters(transformer.config, transformer.vocab_size)
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trainer.like))
    fine_tuned = state * small // trainer.family.parameters()  # The optimizer is the same.
    own = [run for run in pretrained if run.method == name and row.pretrains]
    branches = sum(run.share < max(config.study.shares) for run in own)
    train = row.pretrain
    if train.keep_every:
      branches += len(own) * (trainer.steps // train.keep_every)
    candidates = row.experts if row.choose == "all" else 1
    # Kept are the newest, of a fine-tuning also the best, of the longest run those at branches.
    total += state * (len(own) + branches)
    total += 2 * fine_tuned * candidates * sum(cell.method == name for cell in chosen)
    # While it runs, and one more is written.
    largest = max(largest, state * train.keep_last)
  return total + largest


def _present(workdir: Path) -> int:
  found = (path for path in workdir.glob("*/*/checkpoints/**/*") if path.is_file())
  return sum(path.stat().st_size for path in found)

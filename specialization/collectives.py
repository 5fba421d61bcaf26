"""The collectives of a compiled step, by mesh axes."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from specialization.budgets import Links
from specialization.hlo import KINDS, Instruction, Program, payload


@dataclasses.dataclass(frozen=True)
class Talk:
  """A collective.

  Attributes:
    kind: as XLA calls it.
    axes: of the mesh, along which its devices lie.
    is_scalar: whether all that it says are single numbers.
    bytes: that leave each device in a step.
    times: how often a step has it.
    group: devices of the mesh that talk with each other, one such group of all.
  """

  kind: str
  axes: tuple[str, ...]
  is_scalar: bool
  bytes: float
  times: int
  group: tuple[int, ...]


def talks(program: Program, mesh: Mesh) -> list[Talk]:
  """Returns the collectives of a step; those cut into parts that overlap products count once."""
  found: dict[str, Talk] = {}
  for computation, each, times in program.instructions():
    kind = each.opcode.removesuffix("-start")
    if kind not in KINDS:
      continue
    scatters = kind == "reduce-scatter"
    if computation.startswith("all-reduce-scatter"):  # of which each device keeps its part
      kind = "reduce-scatter"
    groups = _groups(each) or [list(range(mesh.size))]
    shape = payload(each, kind)
    axes, n = axes_of(mesh, groups), len(groups[0])
    if kind == "collective-permute":
      n = 2
    whole = sum(array.size for array in shape) * (n if scatters else 1)
    share = 1.0 if kind == "collective-permute" else (1 + (kind == "all-reduce")) * (n - 1) / n
    scalar = all(math.prod(array.dims) == 1 for array in shape)
    # A collective that runs beside products is written once in each of their fusions.
    chain = re.search(r'chain_id="(\d+)"', each.text)
    name = f"{kind} {each.attribute('channel_id')} {chain[1] if chain else each.name}"
    if name not in found or found[name].times < times:
      found[name] = Talk(kind, axes, scalar, times * whole * share, times, tuple(groups[0]))
  return [talk for talk in found.values() if talk.axes]


def seconds(talk: Talk, where: Sequence[Sequence[int]], links: Links) -> float:
  """Returns what a collective takes at least, on all links between the chips that talk.

  Args:
    talk: the collective.
    where: coordinates of the mesh's chips, in its order.
    links: between them.
  """
  box = [1 + max(along) for along in zip(*where, strict=True)][: links.sides]
  rings = [side % links.closed == 0 for side in box]
  if links.sides == 3 and not all(rings):
    rings = [False] * 3
  speeds, most = 0.0, 0.0
  for side, is_ring in enumerate(rings):
    n = len({where[at][side] for at in talk.group})
    if n > 1:
      speed = links.speed if is_ring else links.speed / 2  # Ends of a line have one neighbor.
      speeds += speed
      most = max(most, n / 4 / speed)
  if talk.kind == "all-to-all":  # Half of it goes over the middle, by as many hops on the way.
    return talk.bytes * max(most, 1 / speeds)
  if talk.kind == "collective-permute":
    return talk.bytes / links.speed
  return talk.bytes / speeds


def _groups(each: Instruction) -> list[list[int]]:
  """Returns which devices talk with each other."""
  if pairs := each.attribute("source_target_pairs"):
    return [list(map(int, pair)) for pair in re.findall(r"\{(\d+),(\d+)\}", pairs)]
  text = each.attribute("replica_groups")
  if text.startswith("{"):
    return [list(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", text)]
  if text.startswith("mesh"):  # mesh['a'=2,'b'=4] {'b'}: a box with named sides, some of them.
    box = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", text)}
    last = [list(box).index(name) for name in re.findall(r"'(\w+)'(?!=)", text)]
    first = [at for at in range(len(box)) if at not in last]
    order = re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", text)
    if order is None and "device_ids" in text:
      raise ValueError(f"{each.name} has devices in an unknown notation: {text!r}.")
    sides, turned = order.groups() if order else (str(math.prod(box.values())), None)
    devices = _numbers(sides, turned).reshape(list(box.values())).transpose(*first, *last)
    return devices.reshape(-1, math.prod(list(box.values())[at] for at in last)).tolist()
  # [4,2]<=[2,2,2]T(0,2,1): numbers in the order of a transposed box, cut into groups.
  found = re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
  if found is None:
    raise ValueError(f"{each.name} has groups in an unknown notation: {text!r}.")
  cut, sides, turned = found.groups()
  return _numbers(sides, turned).reshape(_integers(cut)).tolist()


def _numbers(sides: str, turned: str | None) -> np.ndarray:
  """Returns 0, 1, ... of a box with these sides, in the order after it is transposed."""
  numbers = np.arange(math.prod(_integers(sides))).reshape(_integers(sides))
  return (numbers.transpose(_integers(turned)) if turned else numbers).ravel()


def _integers(text: str) -> list[int]:
  return list(map(int, text.split(",")))


def axes_of(mesh: Mesh, groups: Sequence[Sequence[int]]) -> tuple[str, ...]:
  """Returns along which axes of the mesh the devices of some group differ."""
  places = np.array(np.unravel_index(np.arange(mesh.size), mesh.devices.shape))
  return tuple(
    name
    for name, place in zip(mesh.axis_names, places, strict=True)
    if any(len({int(place[device]) for device in group}) > 1 for group in groups)
  )

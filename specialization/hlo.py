"""What a compiled step does on one device, read from its optimized HLO: products, traffic, talk.

XLA's own cost analysis counts the body of a loop once; here it counts as often as it runs.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
# The kernels of attention for TPUs: how many products each has for a pair of query and key.
_KERNELS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
_FREE = {  # what moves nothing
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
  *("partition-id", "while", "conditional", "call", "iota"),
}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_LINE = re.compile(r"(?:ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_MESH = r"mesh\[[^\]]*\](?:, device_ids=\S+)? \{[^}]*\}"
_VALUE = rf"({_MESH}|\{{\{{.*?\}}\}}|\{{.*?\}}|\[.*?(?=, \w|$)|[^ ,]+)"
_CALLED = re.compile(
  r"(calls|to_apply|body|condition|\w+_computations?)=\{?(%[\w.-]+(?:, %[\w.-]+)*)"
)


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of a shape: its dimensions, and the bytes of it that lie in main memory."""

  dtype: str
  dims: tuple[int, ...]
  is_near: bool  # in on-chip memory

  @property
  def size(self) -> int:
    """In bytes."""
    if self.dtype not in _BITS:  # s32, u8, f64, f8e4m3fn: the first number is that of bits
      _BITS[self.dtype] = int(re.match(r"[suf](\d+)", self.dtype)[1])  # type: ignore[index]
    return math.ceil(_BITS[self.dtype] * math.prod(self.dims) / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  name: str
  shape: tuple[Array, ...]
  opcode: str
  operands: tuple[str, ...]
  text: str  # all after the opcode
  calls: Mapping[str, tuple[str, ...]]

  @property
  def is_ahead(self) -> bool:
    """Whether it only begins what goes on while others run."""
    return self.opcode.endswith("-start")

  def attribute(self, name: str) -> str:
    """Returns what stands after `name=`, up to the next attribute; "": it has none."""
    found = re.search(rf"[ ,]{name}={_VALUE}", self.text)
    return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class _Frame:
  """A computation that runs, with what it is called on where.

  Attributes:
    computation: its name.
    operands: names in the outer frame.
    outer: the frame that calls it, None: it is the entry.
  """

  computation: str
  operands: tuple[str, ...] = ()
  outer: "_Frame | None" = None


class Program:
  """The computations of a partitioned program, each with how often a step runs it."""

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    entry = inside = ""
    for line in text.splitlines():
      if line.endswith("{") and " -> " in line and not line.startswith(" "):
        inside = re.sub(r"^(ENTRY )?%", "", line).split(" ")[0]
        entry = inside if line.startswith("ENTRY") else entry
        self.computations[inside] = {}
      elif line.startswith("  ") and (found := _LINE.match(line.strip())):
        self.computations[inside][found[1]] = _instruction(*found.groups())
    if not entry:
      raise ValueError("There is no entry computation in this HLO.")
    self.times: collections.Counter[str] = collections.Counter()
    self.fused: set[str] = set()
    self._count(_Frame(entry), 1)

  def _count(self, frame: _Frame, times: int) -> None:
    name = frame.computation
    self.times[name] += times
    for each in self.computations[name].values():
      for how, called in each.calls.items():
        again = times * self._trips(frame, each) if each.opcode == "while" else times
        for computation in called:
          if how != "condition":
            self._count(_Frame(computation, each.operands, frame), again)
          if each.opcode == "fusion" or (how == "to_apply" and each.opcode != "call"):
            self.fused.add(computation)

  def _trips(self, frame: _Frame, loop: Instruction) -> int:
    """Returns how often a counted loop runs.

    Raises:
      ValueError: it does not count from one constant up to another in equal strides.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text):
      return int(known[1])
    condition = self.computations[loop.calls["condition"][0]]
    test = next((each for each in condition.values() if each.opcode == "compare"), None)
    if test is None or test.attribute("direction") != "LT":
      raise ValueError(f"{loop.name} does not count up to a constant.")
    counter, limit = (condition[name] for name in test.operands)
    at, last = int(counter.attribute("index")), int(limit.text.split(")")[0])
    body = _Frame(loop.calls["body"][0], loop.operands, frame)
    root = list(self.computations[body.computation].values())[-1]
    first = self._entry(body, at)
    stride = self._value(body, root.operands[at]) - first
    return math.ceil((last - first) / stride)

  def _entry(self, frame: _Frame, index: int) -> int:
    """Returns the value with which an entry of a loop's tuple begins."""
    if frame.outer is None:
      raise ValueError("A loop counts to what the program is given.")
    start = self.computations[frame.outer.computation][frame.operands[0]]
    return self._value(frame.outer, start.operands[index])

  def _value(self, frame: _Frame, name: str) -> int:
    """Returns an integer, in the first turn of all loops around."""
    each = self.computations[frame.computation][name]
    if each.opcode == "constant":
      return int(each.text.split(")")[0])
    if each.opcode in ("copy", "bitcast"):
      return self._value(frame, each.operands[0])
    if each.opcode == "add":
      return sum(self._value(frame, operand) for operand in each.operands)
    if each.opcode == "get-tuple-element":
      return self._entry(frame, int(each.attribute("index")))
    raise ValueError(f"{name} is not a constant.")

  def instructions(self) -> Iterator[tuple[str, Instruction, int]]:
    """Yields each with its computation and how often a step runs it."""
    for computation, times in self.times.items():
      for each in self.computations[computation].values():
        yield computation, each, times

  def flops(self) -> float:
    """Returns those of matrix products, a multiplication and an addition as two."""
    return sum(times * self._flops(c, each) for c, each, times in self.instructions())

  def flops_of(self, computation: str, each: Instruction) -> float:
    """Returns those of one instruction and of what it fuses."""
    inside = [name for names in each.calls.values() for name in names if each.opcode == "fusion"]
    own = self._flops(computation, each)
    return own + sum(
      self.flops_of(name, other) for name in inside for other in self.computations[name].values()
    )

  def _flops(self, computation: str, each: Instruction) -> float:
    if '"tpu_custom_call"' in each.text:
      return self._kernel_flops(computation, each)
    if each.opcode not in ("dot", "convolution"):
      return 0.0
    left, right = (self.computations[computation][name].shape[0].dims for name in each.operands[:2])
    if each.opcode == "dot":
      contracted = each.attribute("lhs_contracting_dims")
      inner = math.prod(left[int(i)] for i in re.findall(r"\d+", contracted))
      return 2.0 * math.prod(each.shape[0].dims) * inner
    return 2.0 * _multiplications(each, left, right)

  def _kernel_flops(self, computation: str, each: Instruction) -> float:
    """Returns those of a causal attention kernel, which leaves out half of the pairs or less.

    Raises:
      ValueError: it is another kernel, into which nobody can look.
    """
    products = next((n for name, n in _KERNELS.items() if each.name.startswith(name)), None)
    if products is None:
      raise ValueError(f"What the kernel {each.name} does is not known.")
    given = (self.computations[computation][name].shape[0] for name in each.operands)
    query, key = [array.dims for array in given if array.dtype in ("bf16", "f32")][:2]
    return products * float(math.prod(query)) * key[-2]

  def costs(self) -> Iterator[tuple[Instruction, float, float, int]]:
    """Yields what runs as one, its FLOPs, its traffic in bytes, and how often a step runs it."""
    for computation, each, times in self.instructions():
      if computation not in self.fused:
        yield each, self.flops_of(computation, each), self.traffic(computation, each), times

  def traffic(self, computation: str, each: Instruction) -> float:
    """Returns the bytes that an instruction reads from main memory and writes to it, at least."""
    if each.opcode in _FREE or each.opcode.endswith("-done") or "AllocateBuffer" in each.text:
      return 0.0
    kind = each.opcode.removesuffix("-start")
    if each.opcode.endswith("-start") and kind not in KINDS:  # copies ahead of use
      return float(min(array.size for array in each.shape[:2]))
    table = self.computations[computation]
    given = [table[name].shape for name in each.operands]
    inside = self.computations[each.calls["calls"][0]] if each.opcode == "fusion" else None
    results = payload(each, kind) if kind in KINDS else each.shape
    moved, written = 0, [array.size * (not array.is_near) for array in results]
    for at, shape in enumerate(given):
      far = sum(array.size for array in shape if not array.is_near)
      if far and inside is not None:
        part = self._part_read(each.calls["calls"][0], at)
        far = far if part is None else min(far, part)
      elif each.opcode in ("dynamic-slice", "gather", "slice") and at == 0:
        far = min(far, each.shape[0].size)
      elif each.opcode == "dynamic-update-slice" and at == 0:
        far = 0
      moved += far
    if each.opcode == "dynamic-update-slice":
      written = [given[1][0].size * bool(written[0])]
    elif inside is not None:
      written = [min(size, new) for size, new in zip(written, _parts_written(inside), strict=True)]
    return float(moved + sum(written))

  def _part_read(self, computation: str, at: int) -> int | None:
    """Returns the bytes of a fusion's input that it reads, None: all of them."""
    inside = self.computations[computation]
    source = next(
      (e.name for e in inside.values() if e.opcode == "parameter" and e.text.startswith(f"{at})")),
      "",
    )
    total, names = 0, {source}
    for each in inside.values():
      used = [i for i, name in enumerate(each.operands) if name in names]
      if not used:
        continue
      if each.opcode == "bitcast":
        names.add(each.name)
      elif each.opcode == "fusion":
        parts = [self._part_read(each.calls["calls"][0], i) for i in used]
        if None in parts:
          return None
        total += sum(part for part in parts if part is not None)
      elif each.opcode in ("dynamic-slice", "slice", "gather") and used[0] == 0:
        total += each.shape[0].size
      elif each.opcode != "dynamic-update-slice" or used[0] != 0:
        return None
    return total


def _instruction(name: str, shape: str, opcode: str, rest: str) -> Instruction:
  arguments = rest[: _closing(rest)]
  calls = {how: tuple(re.findall(r"%([\w.-]+)", names)) for how, names in _CALLED.findall(rest)}
  operands = tuple(re.findall(r"%([\w.-]+)", arguments))
  return Instruction(name, _arrays(shape), opcode, operands, rest, calls)


def _closing(text: str) -> int:
  """Returns where the parenthesis closes that was opened before the text."""
  depth = 1
  for at, letter in enumerate(text):
    depth += (letter == "(") - (letter == ")")
    if not depth:
      return at
  return len(text)


@functools.cache
def _arrays(shape: str) -> tuple[Array, ...]:
  return tuple(
    Array(dtype, tuple(map(int, filter(None, dims.split(",")))), bool(re.search(r"S\(\d", layout)))
    for dtype, dims, layout in _ARRAY.findall(shape)
  )


def _parts_written(inside: Mapping[str, Instruction]) -> list[int]:
  """Returns for each result of a fusion the bytes that it writes: of an update only the new."""
  root = list(inside.values())[-1]

  def written(each: Instruction) -> int:
    while each.opcode == "bitcast":
      each = inside[each.operands[0]]
    if each.opcode == "dynamic-update-slice":
      return inside[each.operands[1]].shape[0].size
    return each.shape[0].size

  if root.opcode == "tuple":
    return [written(inside[name]) for name in root.operands]
  return [written(root)] if len(root.shape) == 1 else [array.size for array in root.shape]


def payload(each: Instruction, kind: str) -> tuple[Array, ...]:
  """Returns what a collective hands out; one that was started also has what it takes in."""
  if not each.opcode.endswith("-start") or kind == "all-reduce":
    return each.shape
  if kind == "collective-permute":
    return each.shape[1:2]
  arrays = [array for array in each.shape if array.dtype != "u32" or array.dims]
  return tuple(arrays[len(arrays) // 2 :])


def _multiplications(each: Instruction, left: Sequence[int], right: Sequence[int]) -> float:
  """Returns those of a convolution, of which a TPU makes products of matrices in a batch."""
  lhs, rhs_out = each.attribute("dim_labels").split("_")
  rhs, out = rhs_out.split("->")
  window = dict(re.findall(r"(\w+)=(\S+)", each.attribute("window").strip("{}")))
  spatial = [label for label in out if label.isdigit()]
  pairs = 1.0
  usual = {"pad": "0_0", "stride": "1", "lhs_dilate": "1", "rhs_dilate": "1"}
  for i, label in enumerate(sorted(spatial)):
    part = usual | {name: value.split("x")[i] for name, value in window.items()}
    size, low = int(part["size"]), int(part["pad"].split("_")[0])
    stride, dilation, spread = (int(part[n]) for n in ("stride", "lhs_dilate", "rhs_dilate"))
    outputs, inputs = each.shape[0].dims[out.index(label)], left[lhs.index(label)]
    at = np.arange(outputs)[:, None] * stride + np.arange(size) * spread - low
    inside = (at >= 0) & (at <= (inputs - 1) * dilation) & (at % dilation == 0)
    pairs *= inside.sum()
  dims = each.shape[0].dims
  return pairs * dims[out.index("b")] * dims[out.index("f")] * right[rhs.index("i")]

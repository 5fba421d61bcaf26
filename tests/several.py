"""Starts several processes of one run on this machine."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import tiny_study


def free_port() -> int:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


@contextlib.contextmanager
def started(
  count: int,
  devices: int,
  arguments: Sequence[str],
  folder: Path,
  present: Sequence[int] = (),
  before: Sequence[str] = (),
  own: Mapping[int, Sequence[str]] = MappingProxyType({}),
) -> Iterator[list[subprocess.Popen]]:
  """Yields `count` processes with so many devices each, and kills those that are left.

  Args:
    count: of processes; a single one is not told of others.
    devices: of each.
    arguments: of the command line.
    folder: of what they say: process-0.txt, ...
    present: those that are started; (): all.
    before: a command that runs each.
    own: further arguments of some.
  """
  port = free_port()
  running = []
  folder.mkdir(parents=True, exist_ok=True)
  command = [*before, sys.executable, "-m", "specialization", *arguments]
  for index in present or range(count):
    place = [f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={index}"]
    with (folder / f"process-{index}.txt").open("w") as said:
      running.append(
        subprocess.Popen(
          [*command, *(place if count > 1 else ()), *own.get(index, ())],
          env=_environment(devices),
          stdout=said,
          stderr=subprocess.STDOUT,
        )
      )
  try:
    yield running
  finally:
    for process in running:
      process.kill()
      process.wait()


def _environment(devices: int) -> dict[str, str]:
  flags = tiny_study.environment()
  flags["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
  return flags | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0", "JAX_PLATFORMS": "cpu"}


def said_by(index: int, folder: Path) -> str:
  return (folder / f"process-{index}.txt").read_text()


def said(running: Sequence[subprocess.Popen], folder: Path) -> str:
  """Returns how each has ended so far, and what it said."""
  return "\n\n".join(
    f"process {index}, {process.poll()}: {said_by(index, folder)}"
    for index, process in enumerate(running)
  )


def run(count: int, devices: int, arguments: Sequence[str], folder: Path) -> str:
  """Runs processes to their end; returns what the first said."""
  with started(count, devices, arguments, folder) as running:
    for process in running:
      process.wait(timeout=280)
  assert all(process.returncode == 0 for process in running), said(running, folder)
  return said_by(0, folder)

"""Folders and results of a run that several processes share: the first writes, all know."""

from pathlib import Path
from typing import Any

from specialization import artifact, processes, study


def claim(folder: Path, made_from: dict[str, Any]) -> None:
  """See artifact.claim."""
  with processes.writer_first(f"claim {folder}"):
    artifact.claim(folder, made_from)


def read(path: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
  """See study.read_result."""
  found: dict[str, Any] | None = processes.of_writer(lambda: study.read_result(path, made_from))
  return found


def write(path: Path, made_from: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
  """See study.write_result."""
  written: dict[str, Any] = processes.of_writer(lambda: study.write_result(path, made_from, result))
  return written

"""Sources: what a spec of the config names, on this machine or elsewhere.

A spec is a file, folder or glob of .json[l][.gz|.zst] (one JSON object a line), .parquet and .txt
files, `hub:NAME[:CONFIG]:SPLIT` for a Hugging Face data set (or a folder that holds one), or
`embedded:PART`; `?pile_set_name=NAME` at its end keeps the records of one of the Pile's sets.
"""

import dataclasses
import glob
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from specialization.data import embedded, readers
from specialization.errors import UserError

_PILE = "?pile_set_name="
_ENDS = 1 << 20  # bytes at both ends of a file that identify it
_GROUP = 4 << 20  # bytes of small text files to read in one go


@dataclasses.dataclass(frozen=True)
class Group:
  """Paths that one worker reads in one go: a file, or several small ones."""

  reader: readers.Reader
  paths: tuple[str, ...]
  bytes: int  # on disk; 0 where that is not known
  pile_set: str  # to keep; "": all


def under(folder: str, spec: str) -> str:
  """Returns a spec whose relative path begins in a folder; "" is the current one."""
  if not folder or spec.startswith(("embedded:", "hub:")):
    return spec
  return str(Path(folder).expanduser() / Path(spec).expanduser())


def identity(spec: str, where: str) -> dict[str, Any]:
  """Describes a source by what is in it, wherever it lies, without reading all of it.

  Args:
    spec: see the module.
    where: dotted name in the config, for messages.

  Raises:
    UserError: there is no such source.
  """
  source, pile_set = _parse(spec)
  kept = {"pile_set_name": pile_set}
  if source.startswith("embedded:"):
    return {**kept, "spec": source, "versions": embedded.versions(_after_colon(source))}
  if source.startswith("hub:"):
    name, config, split = readers.hub_names(source)
    folder = Path(name)
    if not folder.is_dir():
      return {**kept, "spec": source}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {**kept, "spec": f"hub:{config}:{split}", "files": _stamps(files)}
  return {**kept, "files": _stamps(_files(source, where))}


def groups(spec: str, where: str) -> list[Group]:
  """Returns what there is to read of a source, in an order that is the same everywhere.

  Raises:
    UserError: there is no such source, or it needs a package that is not installed.
  """
  source, pile_set = _parse(spec)
  if source.startswith("embedded:"):
    small = embedded.files(_after_colon(source))
    return list(_grouped(readers.embedded_file, small, pile_set))
  if source.startswith("hub:"):
    if importlib.util.find_spec("datasets") is None:
      raise UserError(f"{where}: {source} needs a package: `pip install 'datasets>=4,<6'`.")
    return [Group(readers.hub, (source,), 0, pile_set)]
  files = _files(source, where)
  texts = [path for path in files if path.suffix == ".txt"]
  large = [path for path in files if path.suffix != ".txt"]
  return [
    *(Group(readers.of(path), (str(path),), path.stat().st_size, pile_set) for path in large),
    *_grouped(readers.text_file, texts, pile_set),
  ]


def _parse(spec: str) -> tuple[str, str]:
  source, found, pile_set = spec.rpartition(_PILE)
  return (source, pile_set) if found else (spec, "")


def _after_colon(source: str) -> str:
  return source.partition(":")[2]


def _files(pattern: str, where: str) -> list[Path]:
  path = Path(pattern).expanduser()
  found = [path] if path.exists() else [Path(each) for each in glob.glob(str(path), recursive=True)]
  files = {file for each in found for file in (_walk(each) if each.is_dir() else [each])}
  readable = sorted(file for file in files if file.name.endswith(readers.SUFFIXES))
  if not readable:
    problem = "has no file of a known format" if found else "matches no file"
    raise UserError(
      f"{where}: {pattern!r} {problem}; give a file, a folder or a glob of"
      f" {', '.join(readers.SUFFIXES)} files."
    )
  return readable


def _walk(folder: Path) -> Iterator[Path]:
  for path in folder.rglob("*"):
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    if path.is_file() and not hidden:
      yield path


def _stamps(paths: Iterable[Path]) -> dict[str, str]:
  return {f"{i:05d} {path.name}": stamp(path) for i, path in enumerate(paths)}


def stamp(path: Path) -> str:
  """Returns a file's size and the digest of its two ends, by which it is told from others."""
  size = path.stat().st_size
  with path.open("rb") as file:
    digest = hashlib.sha256(file.read(_ENDS))
    file.seek(max(0, size - _ENDS))
    digest.update(file.read(_ENDS))
  return f"{size} bytes {digest.hexdigest()[:16]}"


def _grouped(reader: readers.Reader, paths: Iterable[Path], pile_set: str) -> Iterator[Group]:
  """Groups small files: a worker for each would cost more than reading it."""
  group: list[str] = []
  size = 0
  for path in paths:
    group.append(str(path))
    size += path.stat().st_size
    if size >= _GROUP:
      yield Group(reader, tuple(group), size, pile_set)
      group, size = [], 0
  if group:
    yield Group(reader, tuple(group), size, pile_set)

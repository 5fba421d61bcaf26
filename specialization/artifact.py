"""Artifacts: folders that appear whole or not at all, and that know what they were made from."""

import contextlib
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from specialization.errors import UserError

_RECORD = "made_from.json"


def fingerprint(made_from: Mapping[str, Any]) -> str:
  """Returns 16 hex digits that identify a JSON-able description."""
  text = json.dumps(made_from, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns {"a.b": value} for nested mappings."""
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def made_from(path: Path) -> dict[str, Any]:
  """Returns what the artifact at `path` was made from, without its hash."""
  record = json.loads((path / _RECORD).read_text())
  return record["made_from"]


def exists(path: Path, wanted: Mapping[str, Any]) -> bool:
  """Whether the artifact is there, made from exactly `wanted`.

  Raises:
    UserError: it is there but was made from something else; names the first field that differs.
  """
  if not (path / _RECORD).exists():
    return False
  found = made_from(path)
  wanted = json.loads(json.dumps(wanted))
  if found == wanted:
    return True
  old, new = flatten(found), flatten(wanted)
  key = next(k for k in sorted(old | new) if old.get(k, "absent") != new.get(k, "absent"))
  raise UserError(
    f"{path} ({fingerprint(found)}) was made with {key}={old.get(key, 'absent')!r}, but this run"
    f" ({fingerprint(wanted)}) has {key}={new.get(key, 'absent')!r}: choose another --workdir,"
    " restore the old value, or delete that folder."
  )


def claim(path: Path, wanted: Mapping[str, Any]) -> str:
  """Makes a folder that is filled step by step, such as a training run's; returns its hash.

  Raises:
    UserError: the folder is there and was made from something else.
  """
  if not exists(path, wanted):
    path.mkdir(parents=True, exist_ok=True)
    _write_record(path, wanted)
  return fingerprint(wanted)


def _write_record(folder: Path, wanted: Mapping[str, Any]) -> None:
  record = {"hash": fingerprint(wanted), "made_from": wanted}
  write_text(folder / _RECORD, json.dumps(record, indent=1, sort_keys=True))


@contextlib.contextmanager
def create(path: Path, wanted: Mapping[str, Any]) -> Iterator[Path]:
  """Yields a temporary folder that becomes `path` if the body succeeds and vanishes if not.

  That of a process which was killed vanishes when the next one begins.

  Raises:
    UserError: something else is at `path`.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  for left in path.parent.glob(f".{glob.escape(path.name)}-????????.lock"):
    with contextlib.suppress(filelock.Timeout), _held(left):
      shutil.rmtree(left.with_suffix(""), ignore_errors=True)
  folder = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
  with _held(folder.with_name(f"{folder.name}.lock")):
    try:
      folder.mkdir()
      yield folder
      _write_record(folder, wanted)
      try:
        os.rename(folder, path)
      except OSError:
        if not path.exists():
          raise
        if not exists(path, wanted):
          raise UserError(f"{path} is in the way of what belongs there: move it away.") from None
        shutil.rmtree(folder)  # Another process was faster, and made the same.
    except BaseException:
      shutil.rmtree(folder, ignore_errors=True)
      raise


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
  """Holds a lock that ends with its process, then removes it; Timeout: another process has it."""
  with filelock.FileLock(path, blocking=False):
    try:
      yield
    finally:
      path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
  """Replaces a file in one step, so that a reader never sees half of it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  temporary.write_text(text)
  os.replace(temporary, path)

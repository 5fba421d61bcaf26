"""A study is a list of cells: method x domain x domain size. Pure bookkeeping, no JAX."""

import dataclasses
import fnmatch
import json
from pathlib import Path
from typing import Any

from specialization import artifact
from specialization.config import Config
from specialization.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cell:
  """One specialization: a pretrained method, a domain and how many of its tokens it may use."""

  method: str
  domain: str
  domain_tokens: int

  @property
  def name(self) -> str:
    return f"{self.method}--{self.domain}--{self.domain_tokens}"


def cells(config: Config, only: str = "*") -> list[Cell]:
  """Returns the cells whose name, or whose method's, matches a pattern, methods first.

  Raises:
    UserError: none does.
  """
  every = [
    Cell(method, domain, tokens)
    for method in config.methods
    for tokens in config.specialize.domain_tokens
    for domain in config.data.domains
  ]
  chosen = [c for c in every if fnmatch.fnmatch(c.name, only) or fnmatch.fnmatch(c.method, only)]
  if every and not chosen:
    raise UserError(f"--only={only!r} matches no cell, such as {every[0].name!r}.")
  return chosen


def methods(config: Config, only: str = "*") -> list[str]:
  """Returns the methods of the chosen cells, or those that match when there are no domains."""
  if config.data.domains:
    return list(dict.fromkeys(cell.method for cell in cells(config, only)))
  chosen = [name for name in config.methods if fnmatch.fnmatch(name, only)]
  if not chosen:
    raise UserError(f"--only={only!r} matches none of the methods {', '.join(config.methods)}.")
  return chosen


def read_result(path: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
  """Returns the result at a path, or None if there is none yet.

  Raises:
    UserError: it was made from something else.
  """
  if not path.exists():
    return None
  result = json.loads(path.read_text())
  wanted = artifact.fingerprint(made_from)
  if result["hash"] != wanted:
    raise UserError(
      f"{path} ({result['hash']}) was made by another configuration than this one ({wanted}):"
      " choose another --workdir, restore the old values, or delete that file."
    )
  return result


def write_result(path: Path, made_from: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
  """Writes a result in one step and returns it."""
  result = {"hash": artifact.fingerprint(made_from)} | result
  artifact.write_text(path, json.dumps(result, indent=1))
  return result

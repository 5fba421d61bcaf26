"""Strict parsing of nested mappings into frozen dataclasses, and sentences for what is refused."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from specialization.errors import UserError

T = TypeVar("T")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises UserError, naming the nearest choice, unless value is one of choices."""
  if value not in choices:
    raise UserError(f"{name}={value!r} is unknown{_nearest(value, choices)}")


def known_key(where: str, key: str, known: Iterable[str]) -> None:
  """Raises UserError, naming the nearest key, unless a group of fields has this one."""
  known = tuple(known)
  if key not in known:
    raise UserError(f"{where} has no field {key!r}{_nearest(key, known)}")


def _nearest(word: str, known: Iterable[str]) -> str:
  known = tuple(known)
  match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
  return f": did you mean {match[0]!r}?" if match else f": choose one of {', '.join(known)}."


def plain_names(where: str, names: Iterable[str]) -> None:
  """Raises UserError unless all may be parts of file names and of cells' names."""
  for name in names:
    if not re.fullmatch(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*", name):
      raise UserError(
        f"{where}.{name} is not a name of letters and digits, with single _ or - between them."
      )


def at_least(least: int, config: Any, *names: str) -> None:
  """Raises UserError unless the named fields are at least so much."""
  fields = vars(config)
  for name in names:
    if fields[name] < least:
      raise UserError(f"{name}={fields[name]} must be at least {least}.")


def parse(cls: type[T], tree: Mapping[str, Any], where: str = "config") -> T:
  """Builds a frozen dataclass from nested mappings; every field must be there and no other.

  Args:
    cls: a dataclass whose fields are scalars, tuples, mappings or dataclasses.
    tree: nested mappings, as ml_collections.ConfigDict.to_dict() gives.
    where: dotted name of this part, for messages.

  Raises:
    UserError: an unknown key (naming the nearest one), a missing key or a value of another type.
  """
  hints = typing.get_type_hints(cls)
  for key in tree:
    known_key(where, key, hints)
  if missing := [key for key in hints if key not in tree]:
    raise UserError(f"{where}.{missing[0]} is not set: give it a value (see configs/base.py).")
  return cls(**{key: _value(hints[key], tree[key], f"{where}.{key}") for key in hints})


def _value(kind: Any, value: Any, where: str) -> Any:
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if dataclasses.is_dataclass(kind):
    if not isinstance(value, Mapping):
      raise UserError(f"{where} must be a group of fields, not {value!r}.")
    return parse(typing.cast(type, kind), value, where)
  if origin is Mapping or origin is dict:
    if not isinstance(value, Mapping):
      raise UserError(f"{where} must be a group of fields, not {value!r}.")
    return types.MappingProxyType({k: _value(args[1], v, f"{where}.{k}") for k, v in value.items()})
  if origin is tuple:
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    kinds = [args[0]] * len(items) if args[-1] is Ellipsis else args
    if len(kinds) != len(items):
      raise UserError(f"{where}={value!r} must have {len(kinds)} entries.")
    return tuple(_value(k, v, where) for k, v in zip(kinds, items, strict=True))
  choices = args if origin is types.UnionType else (kind,)
  if float in choices and isinstance(value, int) and not isinstance(value, bool):
    return value if int in choices else float(value)
  if not any(type(value) is choice for choice in choices):
    names = " or ".join(choice.__name__ for choice in choices)
    raise UserError(f"{where}={value!r} must be of type {names}.")
  return value


def to_dict(config: Any) -> Any:
  """Returns the dataclass as nested plain dicts, lists and scalars, ready for JSON."""
  if dataclasses.is_dataclass(config):
    return {f.name: to_dict(vars(config)[f.name]) for f in dataclasses.fields(config)}
  if isinstance(config, Mapping):
    return {key: to_dict(value) for key, value in config.items()}
  if isinstance(config, tuple):
    return [to_dict(value) for value in config]
  return config

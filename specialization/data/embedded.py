"""The embedded corpus: text that is there wherever this project is installed, without a network.

It is the documentation and source text of the project's own dependencies (and of what they need
in turn) and of Python's standard library. Five bodies of text of different kinds are held out of
its part `generic` as domains: four libraries, and what the standard library says of the internet.
"""

import functools
import hashlib
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from specialization.errors import UserError
from specialization.strict import one_of

_LIBRARIES = ("fonttools", "matplotlib", "scikit-learn", "scipy")
_INTERNET = re.compile(
  r"(asynchat|asyncio|asyncore|base64|cgi|cgitb|email|ftplib|html|http|imaplib|ipaddress|mailbox"
  r"|mailcap|mimetypes|netrc|nntplib|poplib|quopri|selectors|smtpd|smtplib|socket|socketserver|ssl"
  r"|telnetlib|urllib|uu|webbrowser|wsgiref|xmlrpc)(/|\.py$)"
)
_SUFFIXES = (".py", ".pyi", ".rst", ".md", ".txt")
# Vendored code is somebody else's: a copy of a held-out library could hide in it.
_LEFT_OUT = re.compile(
  r"(^|[/_])(tests?|conftest)([/_.]|$)|(^|/)_?(vendor(ed)?|externals?|extern|third_party)/"
  r"|(^|/)(idlelib|lib2to3|encodings|[^/]*\.(dist|egg)-info)/"
  r"|(^|/)(licen[sc]e|copying|notice|authors)[^/]*$",
  re.IGNORECASE,
)
_GENERATED = re.compile(r"(?i)auto-?generated|generated (by|from|with|using)|not (edit|modify)")
_COMMENTS = re.compile(r"(?:^[ \t]*#.*\n)+", re.MULTILINE)
_RIGHTS = re.compile(r"(?i)copyright|licen[sc]e")
_RIGHTS_FIELD = re.compile(r"^[ \t]*:(copyright|license):.*\n", re.MULTILINE)
_PROSE = re.compile(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|#.*')
_LITERAL = re.compile(r"^[ \t]*(?:[\d'(\[{+-]|\"(?!\"\")).*$", re.MULTILINE)

_HEAD = 5000  # characters in which a file says whose it is and how it was made
_SHORTEST = 200  # characters; less is imports
_LONGEST_LINE = 1000  # characters; more is encoded data or minified
_MOST_LITERALS = 0.4  # of the characters, in lines that begin with a literal; more is a table
_LEAST_PROSE = 0.1  # of a Python file's characters, in docstrings and comments
_TELLING_LINE = 50  # characters; shorter lines recur by chance
_MOST_SHARED = 0.03  # of a file's telling lines, found in a held-out domain; more is a copy


def parts() -> tuple[str, ...]:
  """Returns the names that `files` takes: generic, then the held-out domains."""
  return ("generic", *sorted((*_LIBRARIES, "internet")))


def files(part: str) -> list[Path]:
  """Returns a part's files in an order that has nothing to do with where they come from.

  Any run of them is thus a fair sample. The first call reads the whole corpus (a few seconds).

  Raises:
    UserError: there is no such part, or the project is not installed.
  """
  one_of("embedded part", part, parts())
  return list(_corpus()[part])


def versions(part: str) -> dict[str, str]:
  """Returns {distribution: version} of everything that a part's text depends on.

  Raises:
    UserError: there is no such part, or what it is read from is not installed.
  """
  one_of("embedded part", part, parts())
  found = {name: each.version for name, each in _distributions().items()}
  found["python"] = platform.python_version()
  if part == "generic":  # what it leaves out depends on the domains' text too
    return dict(sorted(found.items()))
  source = "python" if part == "internet" else part
  if source not in found:
    raise UserError(f"embedded:{part} needs the package {source}: run `pip install {source}`.")
  return {source: found[source]}


def read(path: Path) -> str:
  """Returns a file's text without the comments that state rights.

  Raises:
    UnicodeDecodeError: it is not UTF-8.
    OSError: it cannot be read.
  """
  text = path.read_bytes().decode().replace("\r\n", "\n")
  head = _COMMENTS.sub(lambda m: "" if _RIGHTS.search(m[0]) else m[0], text[:_HEAD])
  return _RIGHTS_FIELD.sub("", head).lstrip() + text[_HEAD:]


def _distributions() -> dict[str, metadata.Distribution]:
  """The project's dependencies and theirs by normalized name, extras not followed."""
  found: dict[str, metadata.Distribution] = {}
  wanted = ["specialization"]
  while wanted:
    name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
    if name in found:
      continue
    try:
      found[name] = metadata.distribution(name)
    except metadata.PackageNotFoundError:
      if name == "specialization":
        raise UserError(
          "The embedded corpus is the text of this project's dependencies, but the project is not"
          " installed: run `pip install -e .` in its folder."
        ) from None
      continue
    for line in found[name].requires or ():
      requirement = Requirement(line)
      if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        wanted.append(requirement.name)
  del found["specialization"]
  return found


def _part_of(distribution: str, name: str) -> str:
  if distribution == "python":
    return "internet" if _INTERNET.match(name) else "generic"
  return distribution if distribution in _LIBRARIES else "generic"


def _candidates() -> Iterator[tuple[str, str, Path]]:
  """Yields (part, name below the library's root, path) of every file that may hold prose."""
  for distribution, found in _distributions().items():
    for file in found.files or ():
      if _wanted(name := file.as_posix()):
        yield _part_of(distribution, name), name, Path(str(file.locate()))
  library = sysconfig.get_path("stdlib")
  for folder, folders, names in os.walk(library):
    folders[:] = [each for each in folders if each not in ("site-packages", "dist-packages")]
    for each in names:
      path = Path(folder, each)
      if _wanted(name := path.relative_to(library).as_posix()):
        yield _part_of("python", name), name, path


def _wanted(name: str) -> bool:
  return name.endswith(_SUFFIXES) and not name.startswith("..") and not _LEFT_OUT.search(name)


@functools.cache
def _corpus() -> dict[str, tuple[Path, ...]]:
  kept: dict[str, list[Path]] = {part: [] for part in parts()}
  digests: set[bytes] = set()
  held_out: set[str] = set()
  shuffled = sorted(_candidates(), key=lambda found: hashlib.sha256(found[1].encode()).digest())
  # Domains first: a text that stands on both sides of the boundary belongs to the domain.
  for part, name, path in sorted(shuffled, key=lambda found: found[0] == "generic"):
    try:
      text = read(path)
    except (OSError, UnicodeDecodeError):
      continue
    digest = hashlib.sha256(text.encode()).digest()
    telling = _telling_lines(text)
    if part == "generic":
      if len(telling & held_out) > _MOST_SHARED * len(telling):
        continue
    else:
      # Also of files that are left out themselves: generic must not have what the domain drops.
      held_out |= telling
    if digest not in digests and _is_prose(text, name):
      digests.add(digest)
      kept[part].append(path)
  return {part: tuple(paths) for part, paths in kept.items()}


def _telling_lines(text: str) -> set[str]:
  return {line for line in map(str.strip, text.split("\n")) if len(line) >= _TELLING_LINE}


def _is_prose(text: str, name: str) -> bool:
  if len(text) < _SHORTEST or _GENERATED.search(text[:1000]):
    return False
  if max(map(len, text.split("\n"))) > _LONGEST_LINE:
    return False
  if sum(map(len, _LITERAL.findall(text))) > _MOST_LITERALS * len(text):
    return False
  prose = sum(map(len, _PROSE.findall(text))) if name.endswith((".py", ".pyi")) else len(text)
  return prose >= _LEAST_PROSE * len(text)

"""What a section of the report shows, as plain data: the page draws it, Markdown writes tables."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from specialization.report.results import Row, Study, Value
from specialization.report.text import count, deviation, number

_ROOM = 1.5  # times the highest line: how far up a baseline may be to be drawn with the others


class Entry(NamedTuple):
  """A number in a table.

  Attributes:
    value, before, spread: texts; before and spread may be empty.
    best: bold, the lowest of all that it is compared with.
    small: shaded, the lowest of the small models.
  """

  value: str
  before: str = ""
  spread: str = ""
  best: bool = False
  small: bool = False


class Name(NamedTuple):
  """A method in a table, with its color and marker; the badge follows it."""

  method: str
  badge: str = ""


Item = str | Entry | Name


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows in groups that a line parts.

  Attributes:
    head: names of the columns; a line break may stand in them.
    bodies: groups of rows of items.
    spans: (name, number of columns) over the columns, all of them; none: one line of names.
    prose: columns of words, which are wrapped.
    folded: the page shows it when asked to.
  """

  head: Sequence[str]
  bodies: Sequence[Sequence[Sequence[Item]]]
  title: str = ""
  caption: str = ""
  spans: Sequence[tuple[str, int]] = ()
  prose: Sequence[int] = ()
  folded: bool = False

  @property
  def is_empty(self) -> bool:
    return not any(self.bodies)


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of a plot; points that are not finite are left out.

  Attributes:
    method: gives color and marker.
    error: half the length of the whiskers.
    style: as matplotlib's; "": points alone.
    star: x of a point to mark.
    label: in the legend instead of the method's name.
  """

  method: str
  x: Sequence[float]
  y: Sequence[float]
  error: Sequence[float | None] = ()
  style: str = "-"
  markers: bool = True
  star: float | None = None
  label: str = ""


@dataclasses.dataclass(frozen=True)
class Lines:
  """A plot of lines; an axis is logarithmic where its values span more than a factor of 3.

  Attributes:
    levels: heights of methods that do not depend on x, drawn all across.
    y_most: lines may end at this height.
    zero: whether y = 0 is drawn.
    ticks: names for some x, written along the upper edge.
  """

  title: str
  series: Sequence[Line]
  x_label: str
  y_label: str
  caption: str = ""
  levels: Mapping[str, float] = dataclasses.field(default_factory=dict)
  x_text: Callable[[float], str] = count
  x_limits: tuple[float, float] | None = None
  x_log: bool = True
  y_text: Callable[[float], str] = count
  y_most: float = math.inf
  zero: bool = False
  ticks: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def is_empty(self) -> bool:
    return not any(map(math.isfinite, (value for line in self.series for value in line.y)))


class Dot(NamedTuple):
  before: float  # NaN: nothing came before
  after: float
  spread: float | None


@dataclasses.dataclass(frozen=True)
class Dots:
  """A band per name, in it a row per method: before -> after.

  Attributes:
    bands: names down the y axis.
    series: for each method and band what is drawn, or None.
    label: of the x axis.
    zero: whether x = 0 is drawn.
  """

  title: str
  bands: Sequence[str]
  series: Mapping[str, Sequence[Dot | None]]
  label: str
  caption: str = ""
  x_text: Callable[[float], str] = count
  zero: bool = False

  @property
  def is_empty(self) -> bool:
    dots = [dot for band in self.series.values() for dot in band if dot]
    return not any(math.isfinite(dot.after) for dot in dots)


Part = Table | Lines | Dots


@dataclasses.dataclass(frozen=True)
class Section:
  title: str
  text: str
  parts: Sequence[Part]


def section(title: str, text: str, parts: Sequence[Part | None]) -> Section | None:
  """Returns the section with the parts that have something to show, or None if none has."""
  shown = [part for part in parts if part is not None and not part.is_empty]
  return Section(title, text, shown) if shown else None


def entry(value: Value | None, text: Callable[[float], str] = number) -> Entry:
  """Returns a number with its spread, or a dash."""
  return Entry("–") if value is None else Entry(text(value.mean), "", deviation(value.spread))


def mark(
  items: Sequence[tuple[Row, Value | None]], study: Study, text: Callable[[float], str] = number
) -> list[Entry]:
  """Returns the entries of a column, the lowest marked unless that is most of them."""
  known = [(row, value.mean) for row, value in items if value]

  def lowest(among: Sequence[tuple[Row, float]]) -> list[Row]:
    least = text(min((y for _, y in among if math.isfinite(y)), default=math.nan))
    best = [row for row, y in among if text(y) == least]
    return best if 2 * len(best) <= len(among) else []

  best = lowest(known)
  small = lowest([(row, y) for row, y in known if row.method in study.small])
  return [entry(value, text)._replace(best=row in best, small=row in small) for row, value in items]


def path(rows: Sequence[Row], x: Callable[[Row], float], y: Callable[[Row], Value | None]) -> Line:
  """Returns the line of one method through some rows."""
  pairs = [(x(row), value) for row in rows if (value := y(row)) is not None]
  across, up = [at for at, _ in pairs], [value.mean for _, value in pairs]
  return Line(rows[0].method, across, up, [value.spread for _, value in pairs])


def levels(
  lines: Sequence[Line], rows: Sequence[Row], domains: Sequence[str]
) -> tuple[dict[str, float], str]:
  """Returns the heights of baselines that a plot has room for, and a sentence on the others."""
  most = room(lines)
  found = {row.method: row.macro(domains=domains) for row in rows}
  found = {method: y for method, y in found.items() if math.isfinite(y)}
  far = [f"{method} at {number(y)}" for method, y in found.items() if y > most]
  said = f"Above the plot: {', '.join(far)}." if far else ""
  return {method: y for method, y in found.items() if y <= most}, said


def room(lines: Sequence[Line]) -> float:
  """Returns the height that a plot of some lines leaves to others."""
  drawn = [y for line in lines for y in line.y if math.isfinite(y)]
  return _ROOM * max(drawn, default=math.inf)


def limits(lines: Sequence[Line]) -> tuple[float, float] | None:
  """Returns the range of the positive x with a margin, for plots that share an axis."""
  kept = [x for line in lines for x in line.x if math.isfinite(x) and x > 0]
  return (min(kept) / 1.25, max(kept) * 1.25) if kept else None

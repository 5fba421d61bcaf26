"""What the report draws: plots as inline SVG, and the page that holds them. No network, no files.

Plots take the page's own ink and card color, so that they follow its light or dark scheme.
"""

import dataclasses
import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from specialization.tables import (
  count,
)

# Okabe and Ito's colors without black and yellow, the blue a little lighter: told apart by the
# color-blind, visible on white and on dark gray. With more methods they return with other markers.
_COLORS = ("#1c7fc4", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
_INK, _CARD = "#010203", "#fcfdfe"  # stand-ins that `_svg` replaces by the page's colors
_STYLE: Any = {
  "font.family": "sans-serif",
  "font.size": 9,
  "text.parse_math": False,
  "svg.fonttype": "none",
  "svg.hashsalt": "specialization",
  "axes.edgecolor": _INK,
  "axes.labelcolor": _INK,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.linewidth": 0.6,
  "grid.color": _INK,
  "grid.alpha": 0.12,
  "grid.linewidth": 0.6,
  "text.color": _INK,
  "xtick.color": _INK,
  "ytick.color": _INK,
}
_WIDTH = 4.3  # inches; about a phone's width, so that text keeps its size there


class Look(NamedTuple):
  """How a method looks everywhere: in plots, and as a colored glyph in text."""

  color: str
  marker: str
  glyph: str


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of a plot; points that are not finite are left out."""

  look: Look
  x: Sequence[float]
  y: Sequence[float]
  error: Sequence[float | None] | None = None
  style: str = "-"
  markers: bool = False
  star: float | None = None  # x of a point to mark


def looks(methods: Sequence[str]) -> dict[str, Look]:
  """Returns each method's look, which depends on its place in the study alone."""
  return {
    name: Look(_COLORS[i % len(_COLORS)], *_MARKERS[i % len(_MARKERS)])
    for i, name in enumerate(methods)
  }


def dots(
  bands: Sequence[str],
  series: Mapping[str, Sequence[tuple[float, float, float | None] | None]],
  look: Mapping[str, Look],
  label: str,
) -> str:
  """Returns a dot plot: a band per entry of `bands`, in it a row per method, before -> after.

  Args:
    bands: names down the y axis.
    series: for each method and band (before, after, spread of after), or None.
    look: how each method looks.
    label: of the x axis.
  """
  height = 0.62 + len(bands) * (0.16 + 0.15 * len(series))
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    seen = []
    for i, (method, points) in enumerate(series.items()):
      for j, point in enumerate(points):
        if point is None:
          continue
        before, after = _finite(point[:2])
        y = j + (i + 0.5 - len(series) / 2) * 0.8 / len(series)
        color, marker = look[method].color, look[method].marker
        axes.plot([before, after], [y, y], color=color, lw=1.4, alpha=0.45, zorder=2)
        axes.plot(before, y, marker, mfc=_CARD, mec=color, mew=1.2, ms=4.5, zorder=3)
        axes.errorbar(after, y, xerr=point[2], fmt=marker, color=color, ms=5, capsize=2, zorder=4)
        seen += [before, after]
    for j in range(1, len(bands), 2):
      axes.axhspan(j - 0.5, j + 0.5, color=_INK, alpha=0.04, lw=0)
    axes.set(ylim=(len(bands) - 0.5, -0.5), yticks=range(len(bands)), yticklabels=bands)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlabel(label)
    _scale(axes, "x", seen, count)
    return _svg(figure, seen, label)


def lines(
  series: Sequence[Line],
  x_label: str,
  y_label: str,
  *,
  x_text: Callable[[float], str] = count,
  x_limits: tuple[float, float] | None = None,
  x_log: bool = True,
) -> str:
  """Returns a line plot; an axis is logarithmic where its values span more than a factor of 3."""
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(_WIDTH, 2.75), layout="constrained")
    axes = figure.subplots()
    for line in series:
      x, y = _finite(line.x), _finite(line.y)
      color, marker = line.look.color, line.look.marker if line.markers else ""
      style: Any = dict(color=color, ls=line.style, lw=1.3, marker=marker, ms=5)
      error = None if line.error is None else [e or 0.0 for e in line.error]
      axes.errorbar(x, y, yerr=error, capsize=2, **style)
      if line.star is not None and line.star in line.x:
        best = list(line.x).index(line.star)
        axes.plot(x[best], y[best], line.look.marker, color=color, ms=6, mec=_CARD, zorder=4)
    axes.grid()
    axes.set(xlabel=x_label, ylabel=y_label)
    across = [value for line in series for value in line.x]
    up = [value for line in series for value in line.y]
    if x_limits is not None:
      axes.set_xlim(x_limits)
    _scale(axes, "x", x_limits or across, x_text, log=x_log)
    _scale(axes, "y", up, count)
    return _svg(figure, up, f"{y_label} against {x_label}")


def limits(values: Sequence[float]) -> tuple[float, float] | None:
  """Returns the range of the positive values with a margin, for plots that share an axis."""
  kept = [v for v in values if math.isfinite(v) and v > 0]
  return (min(kept) / 1.25, max(kept) * 1.25) if kept else None


def thin(values: Sequence[float], bins: int = 200) -> list[float]:
  """Returns the means of at most `bins` runs of neighboring values."""
  parts = np.array_split(np.asarray(values, float), min(bins, len(values)) or 1)
  return [float(part.mean()) for part in parts if part.size]


def _finite(values: Sequence[float]) -> np.ndarray:
  array = np.asarray(values, dtype=float)
  return np.where(np.isfinite(array), array, np.nan)


def _scale(
  axes: Any, name: str, values: Sequence[float], text: Callable[[float], str], log: bool = True
) -> None:
  """Makes one axis logarithmic if its values span a lot, with ticks that read as plain numbers."""
  axis = getattr(axes, f"{name}axis")
  kept = [v for v in values if math.isfinite(v)]
  low, high = (min(kept), max(kept)) if kept else (1.0, 1.0)
  if log and low > 0 and high / low > 3:
    getattr(axes, f"set_{name}scale")("log")
    decades = math.log10(high / low)
    subs = (1, 1.5, 2, 3, 4, 6) if decades < 0.9 else (1, 2, 5) if decades < 2 else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_minor_locator(NullLocator())
  else:
    axis.set_major_locator(MaxNLocator(5))
  axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def _svg(figure: Figure, values: Sequence[float], label: str) -> str:
  """Returns the figure as SVG for a page, or nothing if it would be empty."""
  if not any(math.isfinite(v) for v in values):
    return ""
  buffer = io.StringIO()
  figure.patch.set_visible(False)
  for axes in figure.axes:
    axes.patch.set_visible(False)
  nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
  figure.savefig(buffer, format="svg", metadata=nothing)
  text = buffer.getvalue()
  text = text[text.index("<svg") :].replace(_INK, "currentColor").replace(_CARD, "var(--card)")
  # The page's fonts and sizes hold; a style sheet in a plot would act on the whole page.
  text = re.sub(r'(?s) (width|height)="[\d.]+pt"|<style.*?</style>|font-family:[^;]*;', "", text)
  return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)

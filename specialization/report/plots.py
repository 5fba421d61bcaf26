"""Plots: SVG for a page, PDF for a paper, PNG for anything else.

The former take the page's own ink and card color, so that they follow its light or dark scheme.
"""

import html
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from specialization.report.figures import Dots, Lines

# Okabe and Ito's colors without black and yellow, the blue a little lighter: told apart by the
# color-blind, visible on white and on dark gray.
_COLORS = {
  "plain": "#1c7fc4",
  "large": "#56b4e9",
  "none": "#8a8f98",
  "importance": "#cc79a7",
  "mixture": "#009e73",
  "projected": "#d55e00",
  "distilled": "#e69f00",
}
_OTHER = "#9c9400"  # a family that is not among them
_MARKERS = (
  *(("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼")),
  *(("P", "✚"), ("X", "✖"), ("<", "◀"), (">", "▶"), ("*", "★")),
)
_INK, _CARD = "#010203", "#fcfdfe"  # stand-ins that `_svg` replaces by the page's colors
_STYLE: Any = {
  "font.family": "sans-serif",
  "font.size": 9,
  "text.parse_math": False,
  "svg.fonttype": "none",
  "pdf.fonttype": 42,
  "svg.hashsalt": "specialization",
  "axes.edgecolor": _INK,
  "axes.labelcolor": _INK,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.linewidth": 0.6,
  "grid.color": _INK,
  "grid.alpha": 0.12,
  "grid.linewidth": 0.6,
  "legend.frameon": False,
  "legend.fontsize": 8.5,
  "legend.handlelength": 1.6,
  "legend.columnspacing": 1.2,
  "legend.labelspacing": 0.25,
  "text.color": _INK,
  "xtick.color": _INK,
  "ytick.color": _INK,
}
_WIDTH = 4.3  # inches; about a phone's width, so that text keeps its size there
_DPI = 200
_HEIGHT = 2.6  # of a plot of lines, without its legend
_LEGEND = 0.17  # of a line of the legend
_MOST_MARKERS = 12  # on a line of many points


class Look(NamedTuple):
  """How a method looks everywhere: in plots, and as a colored glyph in text."""

  color: str
  marker: str
  glyph: str


def looks(methods: Sequence[str], kinds: Mapping[str, str]) -> dict[str, Look]:
  """Returns each method's look: the color says its kind, the marker its place in the study.

  Args:
    methods: all of the study, whether there are results or not.
    kinds: of those with results.
  """
  return {
    name: Look(_COLORS.get(kinds[name], _OTHER), *_MARKERS[i % len(_MARKERS)])
    for i, name in enumerate(methods)
    if name in kinds
  }


def draw(part: Lines | Dots, look: Mapping[str, Look], path: Path) -> str:
  """Returns a plot as SVG and leaves it at a path, to be completed by .pdf and .png."""
  with matplotlib.rc_context(_STYLE):
    figure = _lines(part, look) if isinstance(part, Lines) else _dots(part, look)
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    figure.savefig(path.with_suffix(".png"), dpi=_DPI)
    return _svg(figure, part.title)


def _dots(part: Dots, look: Mapping[str, Look]) -> Figure:
  drawn = {m: points for m, points in part.series.items() if any(points)}
  handles = {m: Line2D([], [], ls="", marker=look[m].marker, color=look[m].color) for m in drawn}
  figure, axes = _figure(0.5 + len(part.bands) * (0.16 + 0.15 * len(drawn)), handles)
  seen = []
  for i, (method, points) in enumerate(drawn.items()):
    color, marker = look[method].color, look[method].marker
    for j, point in enumerate(points):
      if point is None:
        continue
      before, after = _finite(point[:2])
      y = j + (i + 0.5 - len(drawn) / 2) * 0.8 / len(drawn)
      axes.plot([before, after], [y, y], color=color, lw=1.4, alpha=0.45, zorder=2)
      axes.plot(before, y, marker, mfc=_CARD, mec=color, mew=1.2, ms=4.5, zorder=3)
      axes.errorbar(after, y, xerr=point.spread, fmt=marker, color=color, ms=5, capsize=2, zorder=4)
      seen += [before, after]
  for j in range(1, len(part.bands), 2):
    axes.axhspan(j - 0.5, j + 0.5, color=_INK, alpha=0.04, lw=0)
  if part.zero:
    axes.axvline(0, color=_INK, lw=0.8)
  names = dict(yticks=range(len(part.bands)), yticklabels=part.bands)
  axes.set(ylim=(len(part.bands) - 0.5, -0.5), xlabel=part.label, **names)
  axes.tick_params(axis="y", length=0)
  axes.grid(axis="x")
  _scale(axes, "x", seen, part.x_text)
  return figure


def _lines(part: Lines, look: Mapping[str, Look]) -> Figure:
  handles: dict[str, Line2D] = {}
  for line in part.series:
    color, marker = look[line.method].color, look[line.method].marker
    style: Any = dict(ls=line.style or "", marker=marker if line.markers else "", color=color)
    handles[line.label or line.method] = Line2D([], [], ms=4.5, lw=1.3, **style)
  for method in part.levels:
    handles[method] = Line2D([], [], ls="--", lw=1.3, color=look[method].color)
  figure, axes = _figure(_HEIGHT + 0.5 * bool(part.ticks), handles)
  for line in part.series:
    x, y = _finite(line.x), _finite(line.y)
    color, marker = look[line.method].color, look[line.method].marker
    style = dict(color=color, ls=line.style, lw=1.3, marker=marker if line.markers else "", ms=4.5)
    style["markevery"] = math.ceil(len(x) / _MOST_MARKERS) or 1
    axes.errorbar(x, y, yerr=[e or 0.0 for e in line.error] or None, capsize=2, **style)
    if line.star is not None and line.star in line.x:
      best = list(line.x).index(line.star)
      axes.plot(x[best], y[best], marker, color=color, ms=7, mec=_INK, zorder=4)
  for method, height in part.levels.items():
    axes.axhline(height, color=look[method].color, ls="--", lw=1.3)
  if part.zero:
    axes.axhline(0, color=_INK, lw=0.8)
  axes.grid()
  axes.set(xlabel=part.x_label, ylabel=part.y_label)
  if part.x_limits is not None:
    axes.set_xlim(part.x_limits)
  across = part.x_limits or [value for line in part.series for value in line.x]
  up = [*part.levels.values(), *(y for line in part.series for y in line.y)]
  up = [min(y, part.y_most) for y in up if math.isfinite(y)]
  _scale(axes, "x", across, part.x_text, log=part.x_log)
  _scale(axes, "y", up, part.y_text)
  if max(up, default=0.0) == part.y_most:
    axes.set_ylim(0.9 * min(up), part.y_most)
  if part.ticks:
    _name_ticks(axes, part.ticks)
  return figure


def _name_ticks(axes: Any, ticks: Mapping[str, float]) -> None:
  """Writes names along the upper edge, moved apart where their values are close."""
  low, high = axes.get_xlim()
  names = sorted(ticks, key=lambda name: ticks[name])
  at = np.array([ticks[name] for name in names])
  for _ in range(100):
    lacks = np.maximum(0.06 * (high - low) - np.diff(at), 0.0) / 2
    at[:-1] -= lacks
    at[1:] += lacks
  across: Any = axes.get_xaxis_transform()
  style: Any = dict(xycoords=across, textcoords=across, rotation=55, va="bottom", fontsize=7.5)
  for name, x in zip(names, at, strict=True):
    line = dict(arrowstyle="-", color=_INK, lw=0.5, shrinkA=0, shrinkB=0)
    axes.annotate(name, (ticks[name], 1), (x, 1.06), arrowprops=line, ha="left", **style)


def _figure(height: float, handles: Mapping[str, Line2D]) -> tuple[Figure, Any]:
  """Returns a figure with its axes, and the legend below them."""
  n = 3 if max(map(len, handles), default=0) <= 16 else 2
  rows = math.ceil(len(handles) / n)
  figure = Figure(figsize=(_WIDTH, height + 0.1 + _LEGEND * rows), layout="constrained")
  figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=n)
  return figure, figure.subplots()


def _finite(values: Iterable[float]) -> np.ndarray:
  array = np.asarray(list(values), dtype=float)
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


def _svg(figure: Figure, label: str) -> str:
  """Returns the figure as SVG for a page."""
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

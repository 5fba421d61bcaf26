"""What the report draws: plots as inline SVG, and the page that holds them. No network, no files.

Plots take the page's own ink and card color, so that they follow its light or dark scheme.
"""

import dataclasses
import functools
import html
import io
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from specialization import metrics
from specialization.report import (
  TASKS,
  Row,
  Study,
  columns,
  count,
  notes,
  scientific,
  words,
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
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --page: #f5f6f8; --card: #fff; --ink: #1c2128; --soft: #5f6873; --line: #dfe3e8;
  --best: #e7f3ec; color-scheme: light dark; }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #0f1216; --card: #181c22; --ink: #e4e7eb;
  --soft: #98a2ae; --line: #2c333c; --best: #173326; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }}
main {{ max-width: 1320px; margin: 0 auto; padding: 2rem clamp(.9rem, 3vw, 2.5rem) 3rem; }}
h1 {{ font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }}
h2 {{ font-size: 1.2rem; margin: 2.4rem 0 .6rem; }}
h3 {{ font-size: .92rem; margin: 0 0 .3rem; }}
p {{ max-width: 75ch; margin: .5rem 0; }}
.soft, figcaption, footer {{ color: var(--soft); font-size: .85rem; }}
code {{ font: .85em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }}
.command, .card {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px; }}
.command {{ display: block; padding: .5rem .8rem; margin: .8rem 0; overflow-x: auto;
  white-space: pre; }}
.warn {{ border-left: 4px solid #e69f00; padding: .6rem 1rem; margin: 1.2rem 0; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: separate; border-spacing: 0; font-size: .87rem; width: 100%;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
th, td {{ padding: .4rem .75rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }}
th {{ font-weight: 600; color: var(--soft); vertical-align: bottom; }}
th.group {{ text-align: left; }}
figcaption {{ margin-top: .4rem; line-height: 1.4; }}
.edge {{ border-left: 1px solid var(--line); }}
.name {{ text-align: left; position: sticky; left: 0; background: var(--card); z-index: 1;
  border-right: 1px solid var(--line); }}
tbody th {{ color: var(--ink); }}
tbody tr:last-child > * {{ border-bottom-color: var(--soft); }}
tbody:last-child tr:last-child > * {{ border-bottom: 0; }}
td.best {{ background: var(--best); font-weight: 700; }}
td small, th small {{ color: var(--soft); font-weight: 400; font-size: .9em; }}
.badge {{ color: var(--ink) !important; background: var(--best); padding: .05rem .45rem;
  margin-left: .4rem; border-radius: 99px; }}
@media (max-width: 600px) {{ .badge {{ display: block; width: max-content; margin: 0; }} }}
.legend {{ display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; font-size: .87rem; position: sticky;
  top: 0; background: var(--page); padding: .5rem 0; z-index: 2; }}
.plots {{ display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); }}
figure {{ margin: 0; padding: .8rem 1rem; min-width: 0; }}
svg {{ display: block; width: 100%; height: auto; max-width: 560px; margin: 0 auto;
  stroke-linejoin: round; }}
footer {{ margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<div class="soft">{made}</div>
<code class="command">{command}</code>
{words}
<h2>Results</h2>
<div class="card scroll">{table}</div>
<p class="soft">Bold and shaded: the lowest among rows with equal domain tokens.</p>
<div class="legend">{legend}</div>
{plots}
<footer>{conventions}</footer>
</main>
</body>
</html>
"""
_STYLES = ("-", "--", ":", "-.")  # of lines, by domain tokens from the most
_CONVENTIONS = (
  "Perplexity is exp(NLL per token) of held-out test text with this study's tokenizer, over windows"
  " that do not overlap, the first token predicted from the end-of-document token: perplexities of"
  " different tokenizers do not compare, bits per byte do. The macro average is exp(mean over"
  " domains of the mean NLL per token), each domain weighing the same; over seeds NLL is averaged"
  " too. Generic text is held-out pretraining text, read by each domain's model and averaged alike."
  " FLOPs are the model's matrix products, computed and not measured. The cost of N tasks is the"
  " book of generic training plus N times that of specialization; for one method both are means"
  " over its domains."
)
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


def _name(method: str, look: Mapping[str, Look]) -> str:
  color, _, glyph = look[method]
  return f'<span style="color:{color}">{glyph}</span> {html.escape(method)}'


def _card(title: str, plot: str, caption: str = "") -> str:
  if not plot:
    return ""
  # Plots share one page, whose ids must be unique.
  unique = f"p{zlib.crc32((title + plot).encode()):x}-"
  plot = re.sub(r'( id="|"#|url\(#)', rf"\g<1>{unique}", plot)
  note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
  return f'<figure class="card"><h3>{html.escape(title)}</h3>{plot}{note}</figure>'


def _section(title: str, text: str, cards: Sequence[str]) -> str:
  head = f'<h2>{html.escape(title)}</h2><p class="soft">{html.escape(text)}</p>'
  return f'{head}<div class="plots">{"".join(cards)}</div>' if any(cards) else ""


def page(study: Study, workdir: Path, name: str, command: str) -> str:
  """Returns the whole report as one HTML document, which needs nothing beside itself."""
  look = looks(study.methods)
  dates = sorted({cell.record["date"] for cell in study.cells})
  made = [" to ".join(dict.fromkeys((dates[0], dates[-1])))]
  made += dict.fromkeys(cell.record["hardware"] for cell in study.cells)
  said = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in words(study))
  lacks = "".join(f"<p>{html.escape(note)}</p>" for note in notes(study))
  legend = "".join(f"<span>{_name(method, look)}</span>" for method in study.methods)
  return _PAGE.format(
    title=html.escape(name),
    made=html.escape(" · ".join(made)),
    command=html.escape(command),
    words=said + (f'<div class="card warn">{lacks}</div>' if lacks else ""),
    table=_table(study, look),
    legend=legend,
    plots=_quality(study, look) + _costs(study, look) + _training(study, look, workdir),
    conventions=html.escape(_CONVENTIONS),
  )


def _table(study: Study, look: Mapping[str, Look]) -> str:
  shown = columns(study)
  best = [column.best(study) for column in shown]
  small = study.best_small()
  edge = [i == 0 or column.group != shown[i - 1].group for i, column in enumerate(shown)]
  spans = [(column.group, [c.group for c in shown].count(column.group)) for column in shown]
  groups = "".join(
    f'<th class="group edge" colspan="{span}">{html.escape(group)}</th>'
    for group, span in dict.fromkeys(spans)
  )
  names = "".join(
    f"<th{' class=edge' * first}>{html.escape(column.name)}</th>"
    for column, first in zip(shown, edge, strict=True)
  )
  bodies = ""
  for rows in study.groups.values():
    lines = ""
    for row in rows:
      badge = '<small class="badge">best small</small>' * (row in small)
      lines += f'<tr><th class="name">{_name(row.method, look)}{badge}</th>'
      lines += f"<td>{count(row.domain_tokens)}</td>"
      for column, marked, first in zip(shown, best, edge, strict=True):
        before, value, spread = column.show(row)
        kind = f"{'best' * (row in marked)} {'edge' * first}".strip()
        before = f"<small>{before} →</small> " if before else ""
        spread = f" <small>{spread}</small>" if spread else ""
        lines += f'<td class="{kind}">{before}{value}{spread}</td>'
      lines += "</tr>"
    bodies += f"<tbody>{lines}</tbody>"
  return (
    f'<table><thead><tr><th class="name" rowspan="2">Method</th><th rowspan="2">Domain<br>tokens'
    f"</th>{groups}</tr><tr>{names}</tr></thead>{bodies}</table>"
  )


def _quality(study: Study, look: Mapping[str, Look]) -> str:
  """Returns the plots of perplexity: per domain, against domain tokens, and of generic text."""

  def point(
    row: Row, where: str, domains: Sequence[str]
  ) -> tuple[float, float, float | None] | None:
    before = row.perplexity("before", where, domains)
    after = row.perplexity("after", where, domains)
    return before and after and (before.mean, *after)

  cards = []
  for tokens, rows in study.groups.items():
    series = {r.method: [point(r, "domain", (d,)) for d in study.domains] for r in rows}
    plot = dots(study.domains, series, look, "perplexity")
    cards.append(_card(f"Domains, {count(tokens)} domain tokens", plot))
  if len(study.groups) > 1:
    paths = _paths(study, look, lambda row: float(row.domain_tokens))
    plot = lines(paths, "domain tokens", "macro perplexity")
    cards.append(_card("More domain text", plot, _scope(study)[1]))
  bands = [f"{count(tokens)} tokens" for tokens in study.groups]
  series = {m: [None] * len(bands) for m in study.methods}
  for i, rows in enumerate(study.groups.values()):
    for row in rows:
      series[row.method][i] = point(row, "generic", row.common)
  plot = dots(bands, series, look, "perplexity on generic text")
  cards.append(_card("Forgetting: generic text", plot))
  return _section(
    "Before and after fine-tuning",
    "Hollow: before fine-tuning; filled: after. Left is better. Whiskers: deviation over seeds.",
    cards,
  )


def _scope(study: Study) -> tuple[list[str], str]:
  """Returns the domains that every row of the study has, and a caption if they are not all."""
  shared = [d for d in study.domains if all(d in row.common for row in study.rows)]
  few = f"Over {len(shared)} of {len(study.domains)} domains: {', '.join(shared)}."
  return shared, few if len(shared) < len(study.domains) else ""


def _paths(study: Study, look: Mapping[str, Look], x: Callable[[Row], float]) -> list[Line]:
  """Returns a line per method through its amounts of domain text: macro perplexity against x."""
  shared, paths = _scope(study)[0], []
  for method in study.methods:
    rows = [row for row in study.rows if row.method == method]
    pairs = [(x(row), value) for row in rows if (value := row.perplexity(domains=shared))]
    y, error = [value.mean for _, value in pairs], [value.spread for _, value in pairs]
    paths.append(Line(look[method], [at for at, _ in pairs], y, error, markers=True))
  return paths


def _costs(study: Study, look: Mapping[str, Look]) -> str:
  """Returns the plots of macro perplexity against the cost of a number of tasks."""
  paths = {n: _paths(study, look, functools.partial(Row.tasks, n=n)) for n in TASKS}
  shared = limits([x for path in paths.values() for line in path for x in line.x])
  cards = []
  for n, path in paths.items():
    x_label = f"FLOPs for {n} task{'s' * (n > 1)}"
    plot = lines(path, x_label, "macro perplexity", x_text=scientific, x_limits=shared)
    cards.append(_card(f"{n} task{'s' * (n > 1)}", plot, _scope(study)[1]))
  return _section(
    "Quality against cost",
    "Cost of N tasks = generic training + N times specialization (mean per domain). Down and left"
    " is better. Where a method has several points they are its amounts of domain text.",
    cards,
  )


def _training(study: Study, look: Mapping[str, Look], workdir: Path) -> str:
  """Returns the plots of training: pretraining losses, validation losses in fine-tuning."""
  losses, speeds = [], []
  for method in study.methods:
    history = metrics.read(workdir / "pretrain" / method)
    points = [(float(entry["tokens"]), entry["loss"]) for entry in history if "loss" in entry]
    x, y = (thin([point[i] for point in points]) for i in (0, 1))
    losses.append(Line(look[method], x, y))
    if found := [e["tokens_per_second"] for e in history if "tokens_per_second" in e]:
      speeds.append(f"{method} {count(float(np.median(found)))}")
  speed = f"Median tokens per second: {', '.join(speeds)}." if speeds else ""
  plot = lines(losses, "training tokens", "training loss (nats per token)")
  cards = [_card("Pretraining", plot, speed)]
  sizes = list(study.groups)[::-1]
  styles = {tokens: _STYLES[i % len(_STYLES)] for i, tokens in enumerate(sizes)}
  for domain in study.domains:
    kept = []
    for cell in (cell for cell in study.cells if cell.domain == domain):
      x, y = ([float(point[i]) for point in cell.record["curve"]] for i in (0, 1))
      best = float(cell.record["stopped"]["best_step"])
      kept.append(Line(look[cell.method], x, y, style=styles[cell.domain_tokens], star=best))
    plot = lines(kept, "fine-tuning steps", "validation loss", x_log=False)
    cards.append(_card(f"Fine-tuning on {domain}", plot))
  names = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dash-dotted"}
  key = ", ".join(f"{names[style]}: {count(tokens)}" for tokens, style in styles.items())
  return _section(
    "Training",
    "Losses in nats per token. A marker shows the step that was kept."
    + f" Domain tokens: {key}." * (len(sizes) > 1),
    cards,
  )

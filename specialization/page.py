"""The page of a report: one HTML document that needs nothing beside itself."""

import functools
import html
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from specialization import metrics
from specialization.plots import Line, Look, dots, limits, lines, looks, thin
from specialization.results import Row, Study
from specialization.tables import TASKS, columns, count, notes, scientific, words

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

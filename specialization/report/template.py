"""The frame and the style of the report's page."""

PAGE = """<!doctype html>
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
p {{ max-width: 80ch; margin: .5rem 0; }}
nav {{ display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .87rem; margin: 1.2rem 0; }}
a {{ color: inherit; text-decoration-color: var(--soft); text-underline-offset: .2em; }}
.soft, figcaption, footer {{ color: var(--soft); font-size: .85rem; }}
code {{ font: .85em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }}
.command, .card {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px; }}
.command {{ display: block; padding: .5rem .8rem; margin: .8rem 0; overflow-x: auto;
  white-space: pre; }}
.warn {{ border-left: 4px solid #e69f00; padding: .6rem 1rem; margin: 1.2rem 0; }}
.scroll {{ overflow-x: auto; }}
.table {{ margin: 0 0 1rem; max-width: max-content; overflow: hidden; }}
.table h3, summary {{ padding: .8rem .75rem .1rem; }}
.table figcaption {{ padding: .1rem .75rem .6rem; max-width: 90ch; }}
summary {{ cursor: pointer; font-size: .92rem; font-weight: 600; padding-bottom: .6rem; }}
table {{ border-collapse: separate; border-spacing: 0; font-size: .87rem; min-width: 100%;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
th, td {{ padding: .35rem .75rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }}
th {{ font-weight: 600; color: var(--soft); vertical-align: bottom; }}
th.group, .prose {{ text-align: left; }}
.prose {{ white-space: normal; min-width: 9rem; vertical-align: top; }}
tbody .prose {{ font-weight: 400; }}
figcaption {{ margin-top: .4rem; line-height: 1.4; }}
.edge {{ border-left: 1px solid var(--line); }}
.name, .stay {{ text-align: left; }}
.stay {{ position: sticky; left: 0; background: var(--card); z-index: 1;
  border-right: 1px solid var(--line); }}
tbody th {{ color: var(--ink); }}
tbody tr:last-child > * {{ border-bottom-color: var(--soft); }}
tbody:last-child tr:last-child > * {{ border-bottom: 0; }}
.best {{ font-weight: 700; }}
.small {{ background: var(--best); }}
td small, th small {{ color: var(--soft); font-weight: 400; font-size: .9em; }}
.badge {{ color: var(--ink) !important; background: var(--best); padding: .05rem .45rem;
  margin-left: .4rem; border-radius: 99px; }}
@media (max-width: 700px) {{ .words thead {{ display: none; }}
  .words th, .words td {{ display: block; border: 0 !important; padding: .1rem .8rem; }}
  .words th {{ padding-top: .7rem; font-weight: 600; }} .words td:last-child {{ font-size: .82rem;
    color: var(--soft); }} }}
@media (max-width: 600px) {{ th .badge {{ display: block; width: max-content; margin: 0; }}
  th, td {{ padding: .3rem .5rem; }} }}
.plots {{ display: grid; gap: 1rem; align-items: start; margin: 0 0 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); }}
figure {{ margin: 0; min-width: 0; }}
.plots figure {{ padding: .8rem 1rem; }}
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
<nav>{contents}</nav>
{sections}
<footer>{conventions}</footer>
</main>
</body>
</html>
"""
CONVENTIONS = (
  "Perplexity is exp(NLL per token) of held-out test text with this study's tokenizer, over"
  " windows that do not overlap, the first token predicted from the one that comes before"
  " documents: perplexities of different tokenizers do not compare, bits per byte do. The macro"
  " average is exp(mean over domains of the mean NLL per token), each domain weighing the same;"
  " over seeds NLL is averaged too. Generic text is held-out pretraining text, read by each"
  " domain's model and averaged alike. FLOPs are the model's matrix products, computed and not"
  " measured. The cost of N tasks is the book of generic training plus N times that of"
  " specialization; for one method both are means over its domains."
)

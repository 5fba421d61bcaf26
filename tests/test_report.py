import csv
import html.parser
import io
import json
import math
import re
import subprocess
import sys

import pytest

from specialization import plots, report, results, tables
from specialization.errors import UserError

VOID = {"meta", "br"}


def save(
  work,
  method="slm",
  domain="scipy",
  tokens=100_000,
  *,
  seed=0,
  before=32.0,
  after=8.0,
  generic=(8.0, 16.0),
  parameters=(5_000_000, 5_000_000),
  flops=(1e15, 1e14),
):
  """Writes one cell; perplexities are given, over 1,000 tokens of 500 bytes in all."""

  def score(perplexity):
    return {"nats": 1000 * math.log(perplexity), "tokens": 1000, "bytes": 500}

  ledger = [
    {"book": "generic", "phase": "pretrain", "flops": flops[0], "device_hours": 2.0},
    {"book": "specialization", "phase": "specialize", "flops": flops[1], "device_hours": 0.5},
  ]
  record = {
    "method": method,
    "domain": domain,
    "domain_tokens": tokens,
    "seed": seed,
    "parameters": {"pretraining": parameters[0], "inference": parameters[1]},
    "before": {"domain": score(before), "generic": score(generic[0])},
    "after": {"domain": score(after), "generic": score(generic[1])},
    "ledger": [{**entry, "tokens": 1e6, "seconds": 1.0} for entry in ledger],
    "stopped": {"step": 150, "reason": "no improvement for 3 evaluations", "best_step": 100},
    "curve": [[0, 4.0], [50, 3.0], [100, 2.5], [150, 2.6]],
    "hardware": "a machine",
    "date": "2026-11-24",
    "command": "a command",
  }
  path = work / "results" / f"{method}-{domain}-{tokens}-{seed}.json".replace("/", "")
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(record))
  return path


def table(work, expected=()):
  """Returns the rows of table.csv by (method, domain tokens)."""
  rows = csv.DictReader(io.StringIO(tables.csv_table(results.load(work, expected))))
  return {(row["method"], int(row["domain_tokens"])): row for row in rows}


class Reader(html.parser.HTMLParser):
  """Checks that tags nest, and collects attributes and texts."""

  def __init__(self, text):
    super().__init__()
    self.open, self.attributes, self.texts, self.tags = [], [], [], set()
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes += [(tag, *pair) for pair in attrs]
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.attributes += [(tag, *pair) for pair in attrs]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


def written(work, expected=(), name="a study"):
  return report.write(work, name, expected, "a command").read_text()


def test_perplexity_macro_average_and_bits_per_byte(tmp_path):
  save(tmp_path, domain="a", before=16, after=4, generic=(8, 16))
  save(tmp_path, domain="b", before=64, after=16, generic=(8, 64))
  row = table(tmp_path)["slm", 100_000]
  assert float(row["perplexity_a_before"]) == pytest.approx(16)
  assert float(row["perplexity_b_after"]) == pytest.approx(16)
  assert float(row["macro_perplexity_before"]) == pytest.approx(32)
  assert float(row["macro_perplexity_after"]) == pytest.approx(8)
  assert float(row["generic_perplexity_before"]) == pytest.approx(8)
  assert float(row["generic_perplexity_after"]) == pytest.approx(32)
  # 1,000 tokens of 2 and of 4 bits over 500 bytes.
  assert float(row["macro_bits_per_byte"]) == pytest.approx((4 + 8) / 2)


def test_cost_of_tasks_is_generic_and_mean_specialization_times_tasks(tmp_path):
  save(tmp_path, domain="a", flops=(100.0, 10.0))
  path = save(tmp_path, domain="b", flops=(100.0, 25.0))
  record = json.loads(path.read_text())
  record["ledger"].append({**record["ledger"][1], "flops": 5.0})
  path.write_text(json.dumps(record))
  (row,) = results.load(tmp_path).rows
  assert [row.tasks(n) for n in (1, 7, 50)] == [120, 240, 1100]
  assert float(table(tmp_path)["slm", 100_000]["hours_specialization"]) == 0.75


def test_marks_the_best_and_the_best_small_model(tmp_path):
  large = (30_000_000, 30_000_000)
  save(tmp_path, "slm", after=9)
  save(tmp_path, "slm_pn", after=8, parameters=(28_000_000, 5_000_000))
  save(tmp_path, "llm", after=7, parameters=large)
  save(tmp_path, "slm", tokens=200_000, after=3)
  save(tmp_path, "llm", tokens=200_000, after=3, parameters=large)
  small = {key for key, row in table(tmp_path).items() if row["best_small"] == "1"}
  assert small == {("slm_pn", 100_000), ("slm", 200_000)}
  text = tables.markdown_table(results.load(tmp_path))
  assert "**7.000**" in text
  assert "**8.000**" not in text
  assert "**3.000**" not in text  # a tie of all is no win
  assert "slm_pn (best small)" in text
  terminal = tables.terminal_table(tmp_path)
  assert re.search(r"^> slm_pn .* 8\.000 ", terminal, re.M)
  assert re.search(r"^  llm .* 7\.000\*", terminal, re.M)
  page = written(tmp_path)
  assert re.search(r'class="best edge"><small>32.00 →</small> 7.000<', page)
  assert page.count("best small</small>") == 2


def test_missing_and_unfinished_cells_are_named_and_left_out_of_averages(tmp_path):
  expected = [(m, d, 100_000) for m in ("slm", "slm_pn") for d in ("a", "b")]
  save(tmp_path, "slm", "a", after=4)
  save(tmp_path, "slm", "b", after=100)
  save(tmp_path, "slm_pn", "a", after=5)
  path = save(tmp_path, "slm_pn", "b", after=100)
  path.write_text(path.read_text()[:200])
  rows = table(tmp_path, expected)
  assert float(rows["slm", 100_000]["macro_perplexity_after"]) == pytest.approx(4)
  assert rows["slm_pn", 100_000]["perplexity_b_after"] == ""
  for text in (written(tmp_path, expected), tables.terminal_table(tmp_path, expected)):
    assert "Not there yet: slm_pn on b (100k)" in text
    assert "over the 1 of 2 domains that every method has: a" in text
    assert path.name in text


def test_no_macro_average_without_a_common_domain(tmp_path):
  save(tmp_path, "slm", "a")
  save(tmp_path, "slm_pn", "b")
  assert {row["macro_perplexity_after"] for row in table(tmp_path).values()} == {""}
  assert "no macro averages" in written(tmp_path)


def test_one_method_has_no_rivals(tmp_path):
  save(tmp_path)
  assert table(tmp_path)["slm", 100_000]["best_small"] == "0"
  assert "**" not in tables.markdown_table(results.load(tmp_path))
  page = written(tmp_path)
  assert 'class="best' not in page
  assert "lowest macro perplexity" not in page


def test_several_sizes_are_compared_within_each_and_plotted(tmp_path):
  expected = [(m, "a", n) for m in ("z", "m") for n in (1_000_000, 100_000)]
  for method, _, tokens in expected[:3]:
    save(tmp_path, method, "a", tokens)
  assert "More domain text" in written(tmp_path, expected)
  for method, domain, tokens in expected:
    save(tmp_path, method, domain, tokens, after=(4e6 if method == "m" else 8e6) / tokens)
  study = results.load(tmp_path, expected)
  shown = [(row.method, row.domain_tokens) for row in study.rows]
  assert shown == [(m, n) for n in (100_000, 1_000_000) for m in ("z", "m")]
  text = tables.markdown_table(study)
  assert text.count("**40.00**") == text.count("**4.000**") - 1 == 2  # macro, domain (and bits)
  for path in (tmp_path / "results").glob("*-1000000-*"):
    path.unlink()
  assert "More domain text" not in written(tmp_path, expected)


def test_seeds_give_mean_and_deviation(tmp_path):
  for seed, after in enumerate((2, 8)):
    save(tmp_path, domain="a", seed=seed, after=after)
    save(tmp_path, domain="b", seed=seed, after=after * 4)
  row = table(tmp_path)["slm", 100_000]
  assert row["seeds"] == "2"
  assert float(row["perplexity_a_after"]) == pytest.approx(4)
  assert float(row["perplexity_a_deviation"]) == pytest.approx(math.sqrt(18))
  assert float(row["macro_perplexity_after"]) == pytest.approx(8)
  assert float(row["macro_perplexity_deviation"]) == pytest.approx(math.sqrt(72))
  page = written(tmp_path)
  assert "4.000 <small>± 4.2</small>" in page
  assert "means over 2 seeds" in page


@pytest.mark.parametrize(("wild", "shown"), [(math.inf, "inf"), (math.nan, "nan")])
def test_perplexities_that_are_not_finite_survive(tmp_path, wild, shown):
  save(tmp_path, "slm", after=wild)
  save(tmp_path, "slm_pn", after=9)
  save(tmp_path, "slm_is", before=wild, after=8)
  rows = table(tmp_path)
  assert rows["slm", 100_000]["perplexity_scipy_after"] == shown
  assert {k[0] for k, row in rows.items() if row["best_small"] == "1"} == {"slm_is"}
  assert "**8.000**" in tables.markdown_table(results.load(tmp_path))
  assert "left out of the ranking: slm on scipy (100k)" in written(tmp_path)
  assert shown in tables.terminal_table(tmp_path)


def test_scores_too_large_for_a_float_are_infinite(tmp_path):
  path = save(tmp_path)
  record = json.loads(path.read_text())
  record["after"]["domain"]["nats"] = 1e7
  record["after"]["generic"]["tokens"] = 0
  path.write_text(json.dumps(record))
  row = table(tmp_path)["slm", 100_000]
  assert (row["macro_perplexity_after"], row["generic_perplexity_after"]) == ("inf", "nan")


def test_page_is_one_valid_file_that_needs_nothing_else(tmp_path, capsys):
  expected = [(m, d, n) for m in ("a&b", "c") for d in ("<d>", "e") for n in (1000, 2000)]
  for method, domain, tokens in expected:
    save(tmp_path, method, domain, tokens)
  for method in ("a&b", "c"):
    folder = tmp_path / "pretrain" / method
    folder.mkdir(parents=True)
    lines = [{"step": i, "tokens": 10 * i, "loss": 9 / i} for i in range(1, 400)]
    lines.append({"step": 400, "tokens": 4000, "tokens_per_second": 1234.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  page = written(tmp_path, expected, name="<study>")
  assert capsys.readouterr() == ("", "")
  reader = Reader(page)
  assert not reader.tags & {"script", "link", "img", "iframe", "object", "base"}
  for _, name, value in reader.attributes:
    if name.split(":")[-1] in ("href", "src", "srcset", "action", "poster", "data"):
      assert value.startswith("#")
    if name and not name.startswith("xmlns"):
      assert "//" not in (value or "")
  assert not re.findall(r"@import|@font-face|url\((?!#)", page)
  ids = [value for _, name, value in reader.attributes if name == "id"]
  assert len(ids) == len(set(ids))
  assert {"<study>", " a&b", "<d>", "Fine-tuning on <d>", "Pretraining"} <= set(reader.texts)
  assert {"1 task", "7 tasks", "50 tasks", "Forgetting: generic text"} <= set(reader.texts)
  assert "a&b 1.234k" in page.replace("&amp;", "&")
  assert "prefers-color-scheme: dark" in page
  assert page.count("<style") == 1
  assert page == written(tmp_path, expected, name="<study>")


def test_long_curves_are_thinned_to_means():
  assert plots.thin([float(i) for i in range(400)]) == [2 * i + 0.5 for i in range(200)]
  assert plots.thin([3.0, 1.0]) == [3.0, 1.0]
  assert plots.thin([]) == []


def test_a_method_has_one_color_everywhere_whatever_is_finished(tmp_path):
  expected = [(m, "a", 1000) for m in ("x", "y", "z")]
  save(tmp_path, "z", "a", 1000)
  color, _, glyph = plots.looks(["x", "y", "z"])["z"]
  assert len({look.color for look in plots.looks(["x", "y", "z"]).values()}) == 3
  page = written(tmp_path, expected)
  assert f'<span style="color:{color}">{glyph}</span> z' in page
  drawn = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", page))
  assert drawn == {color}


def test_words_say_who_wins_by_how_much_at_what_cost(tmp_path):
  for domain in ("a", "b"):
    save(tmp_path, "slm", domain, after=8, flops=(1e15, 1e14))
    save(tmp_path, "slm_is", domain, after=6 if domain == "a" else 9, flops=(0.0, 1e15))
  ranking, tuning, forgetting, trust = tables.words(results.load(tmp_path))
  assert "slm_is has the lowest macro perplexity, 7.348: 8.1% below slm (8.000)" in ranking
  assert "best on 1 of 2 domains" in ranking
  assert "1e15 FLOPs for 1 task (the cheapest)" in ranking
  assert "5e16 FLOPs for 50 tasks (8.3 times the cheapest, slm)" in ranking
  assert "lowered the macro perplexity by 75.0% (slm, 100k tokens) to 77.0% (slm_is" in tuning
  assert "raised the perplexity on generic text by 100.0%" in forgetting
  assert "one seed" in trust


@pytest.mark.parametrize(("second", "verdict"), [(9.0, "too close to call"), (40.0, "more than")])
def test_words_weigh_the_margin_against_the_seeds(tmp_path, second, verdict):
  for seed in (0, 1):
    save(tmp_path, "slm", seed=seed, after=8 + seed)
    save(tmp_path, "slm_pn", seed=seed, after=second + seed)
  assert verdict in tables.words(results.load(tmp_path))[0]


def test_terminal_table_fits(tmp_path):
  expected = [(m, f"domain{i}", 1000) for m in ("slm", "x" * 40) for i in range(20)]
  for method, domain, tokens in expected[:-1]:
    save(tmp_path, method, domain, tokens, after=12345.678)
  text = tables.terminal_table(tmp_path, expected)
  assert max(map(len, text.splitlines())) <= 118
  assert all(re.search(rf"\bdomain{i}\b", text) for i in range(20))


def test_no_results_say_what_to_run(tmp_path):
  with pytest.raises(UserError, match="specialization run"):
    report.write(tmp_path, "a study", [], "a command")
  path = save(tmp_path)
  path.write_text("{")
  with pytest.raises(UserError, match=path.name):
    tables.terminal_table(tmp_path)


def test_tables_need_neither_jax_nor_matplotlib():
  code = "import sys, specialization.report; print({'jax', 'matplotlib'} & set(sys.modules))"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "set()"

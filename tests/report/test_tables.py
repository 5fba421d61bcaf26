"""The table as CSV, as Markdown and for a terminal."""

import math
import re
import subprocess
import sys

import pytest

from records import cells, save, table, written
from specialization.report import markdown, results, tables, terminal, text


def document(work, expected=()):
  return markdown.document(results.load(work, expected))


def main_table(work, expected=()):
  return markdown.table(tables.table(results.load(work, expected)))


def test_marks_the_best_and_the_best_small_model(tmp_path):
  save(tmp_path, "slm", after=9)
  save(tmp_path, "slm_pn", after=8, parameters=(28_000_000, 5_000_000))
  save(tmp_path, "llm", after=7)
  save(tmp_path, "slm", tokens=200_000, after=3)
  save(tmp_path, "llm", tokens=200_000, after=3)
  small = {key for key, row in table(tmp_path).items() if row["best_small"] == "1"}
  assert small == {("slm_pn", 100_000), ("slm", 200_000)}
  text = main_table(tmp_path)
  assert "**7.000**" in text
  assert "**8.000**" not in text
  assert "**3.000**" not in text  # a tie of all is no win
  assert "slm_pn (best small)" in text
  shown = terminal.terminal_table(tmp_path)
  assert re.search(r"^> slm_pn .* 8\.000 ", shown, re.M)
  assert re.search(r"^  llm .* 7\.000\*", shown, re.M)
  assert "**5M**" not in text  # parameters are no contest
  page = written(tmp_path)
  assert re.search(r'class="best edge"><small>32.00 →</small> 7.000<', page)
  assert 'class="small edge">8.000<' in page
  assert page.count("best small</small>") == 2


def test_one_method_has_no_rivals(tmp_path):
  save(tmp_path)
  assert table(tmp_path)["slm", 100_000]["best_small"] == "0"
  assert "**" not in document(tmp_path)
  page = written(tmp_path)
  assert 'class="best' not in page
  assert "best small model is" not in page


def test_several_sizes_are_compared_within_each(tmp_path):
  expected = cells(*((m, "a", n) for m in ("z", "m") for n in (1_000_000, 100_000)))
  for cell in expected:
    after = (4e6 if cell.method == "m" else 8e6) / cell.domain_tokens
    save(tmp_path, cell.method, "a", cell.domain_tokens, after=after)
  study = results.load(tmp_path, expected)
  shown = [(row.method, row.domain_tokens) for row in study.rows]
  assert shown == [(m, n) for n in (100_000, 1_000_000) for m in ("z", "m")]
  text = main_table(tmp_path, expected)
  assert text.count("**40.00**") == text.count("**4.000**") - 1 == 2  # macro, domain (and bits)


def test_several_shares_are_compared_within_each_and_told(tmp_path):
  for share, after in ((0.25, 9), (1.0, 7)):
    save(tmp_path, "slm", share=share, after=after)
    save(tmp_path, "slm_pn", share=share, after=after + (1 if share == 1 else -1))
  small = {key for key, row in table(tmp_path).items() if row["best_small"] == "1"}
  assert small == {("slm_pn", 100_000, "0.25"), ("slm", 100_000)}
  assert "| slm_pn (best small) | 100k | 25%: 1M | 32.00 → **8.000** |" in main_table(tmp_path)
  text = terminal.terminal_table(tmp_path)
  assert re.search(r"^> slm_pn +100k +25%: 1M +32\.00 → 8\.000\*", text, re.M)
  assert re.search(r"^> slm +100k +100%: 1M +32\.00 → 7\.000\*", text, re.M)
  for path in (tmp_path / "results").glob("*-0.25-*"):
    path.unlink()
  text = terminal.terminal_table(tmp_path)
  assert "%" not in text
  assert "1M" not in text


@pytest.mark.parametrize(("wild", "shown"), [(math.inf, "inf"), (math.nan, "nan")])
def test_perplexities_that_are_not_finite_survive(tmp_path, wild, shown):
  save(tmp_path, "slm", after=wild)
  save(tmp_path, "slm_pn", after=9)
  save(tmp_path, "slm_is", before=wild, after=8)
  rows = table(tmp_path)
  assert rows["slm", 100_000]["perplexity_scipy_after"] == shown
  assert {k[0] for k, row in rows.items() if row["best_small"] == "1"} == {"slm_is"}
  assert "**8.000**" in main_table(tmp_path)
  assert "left out of the ranking: slm on scipy (100k)" in written(tmp_path)
  assert shown in terminal.terminal_table(tmp_path)


@pytest.mark.parametrize("shares", [(1.0,), (0.25, 1.0)])
def test_terminal_table_fits(tmp_path, shares):
  expected = [
    cell
    for share in shares
    for m in ("slm", "x" * 40)
    for i in range(20)
    for cell in cells((m, f"domain{i}", 1000), share=share)
  ]
  for cell in expected[:-1]:
    save(tmp_path, cell.method, cell.domain, 1000, share=cell.share, after=12345.678)
  text = terminal.terminal_table(tmp_path, expected)
  assert max(map(len, text.splitlines())) <= 118
  assert all(re.search(rf"\bdomain{i}\b", text) for i in range(20))


def test_csv_tells_what_a_method_is(tmp_path):
  save(tmp_path, "anything", family="projected", strategy="clustered", clusters=8, choice="all")
  row = table(tmp_path)["anything", 100_000]
  assert [row[key] for key in ("family", "strategy", "clusters", "objective", "choice")] == [
    *("projected", "clustered", "8", "next_token", "all")
  ]


def test_the_document_has_tables_words_and_no_empty_section(tmp_path):
  save(tmp_path, "slm", after=9)
  save(tmp_path, "slm_pn", after=8)
  text = document(tmp_path)
  heads = re.findall(r"^## (.*)$", text, re.M)
  assert heads == [
    *("Results", "The paper's claims", "Which method under which budget"),
    *("Cost by number of tasks", "Parameters and throughput", "Clusters and domains"),
    "Every number",
  ]
  assert "the best small model is slm_pn (8.000)" in text
  assert "| Without pretraining" not in text


def test_numbers_read_well():
  assert [text.number(x) for x in (7.1234, 161.04, 2330.4, 1.23456e5, math.inf)] == [
    *("7.123", "161.0", "2330", "1.235e+05", "inf")
  ]
  assert [text.count(x) for x in (800, 4100, 999_999, 1.4224e9)] == ["800", "4.1k", "1M", "1.422B"]
  assert [text.scientific(x) for x in (0.0, 1.234e15, 2e9)] == ["0", "1.23e15", "2e9"]
  assert [text.deviation(x) for x in (None, 0.0001, 0.012, 3.0, 41.7)] == [
    *("", "± 0.000", "± 0.012", "± 3.0", "± 42")
  ]
  assert text.change(0.039) == "−3.8%"
  assert text.listing(["a", "b", "c"]) == "a, b and c"


def test_tables_need_neither_jax_nor_matplotlib():
  code = "import sys, specialization.report; print({'jax', 'matplotlib'} & set(sys.modules))"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "set()"

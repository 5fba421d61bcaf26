"""Averages over domains and seeds, costs, kinds, and what is missing."""

import math

import pytest

from records import KINDS, LARGE, cells, change, entry, save, table, written
from specialization.errors import UserError
from specialization.report import compare, notes, results, terminal


def test_perplexity_macro_average_and_bits_per_byte(tmp_path):
  save(tmp_path, domain="a", before=16, after=4, generic=(8, 16), routed=4)
  save(tmp_path, domain="b", before=64, after=16, generic=(8, 64), routed=9)
  row = table(tmp_path)["slm", 100_000]
  assert float(row["perplexity_a_before"]) == pytest.approx(16)
  assert float(row["perplexity_b_after"]) == pytest.approx(16)
  assert float(row["macro_perplexity_before"]) == pytest.approx(32)
  assert float(row["macro_perplexity_after"]) == pytest.approx(8)
  assert float(row["generic_perplexity_before"]) == pytest.approx(8)
  assert float(row["generic_perplexity_after"]) == pytest.approx(32)
  assert float(row["generic_perplexity_routed"]) == pytest.approx(6)
  # 1,000 tokens of 2 and of 4 bits over 500 bytes.
  assert float(row["macro_bits_per_byte"]) == pytest.approx((4 + 8) / 2)


def test_cost_of_tasks_is_generic_and_mean_specialization_times_tasks(tmp_path):
  save(tmp_path, domain="a", flops=(100.0, 10.0))
  save(tmp_path, domain="b", flops=(100.0, 25.0), ledger=[entry("specialization", "look", 5.0)])
  (row,) = results.load(tmp_path).rows
  assert [row.tasks(n) for n in (1, 7, 50)] == [120, 240, 1100]
  assert row.pretraining("flops") == 100
  assert row.tasks(2, "device_hours") == 2 + 2 * 0.5


def test_what_a_teacher_cost_can_be_left_out(tmp_path):
  taught = [
    entry("generic", "teacher: pretrain llm", 1000.0),
    entry("specialization", "teacher: specialize llm", 30.0),
  ]
  save(tmp_path, "slm_d", flops=(100.0, 10.0), ledger=taught)
  (row,) = results.load(tmp_path).rows
  assert (row.tasks(2), row.tasks(2, teacher=False)) == (1180, 120)
  assert row.pretraining("flops") == 100


def test_kinds_are_told_by_fields_and_sizes_by_parameters(tmp_path):
  save(tmp_path, "a", strategy="none")
  save(tmp_path, "b", strategy="importance")
  save(tmp_path, "c", objective="distillation")
  save(tmp_path, "d", family="projected", strategy="clustered")
  save(tmp_path, "e", family="mixture", strategy="balanced")
  save(tmp_path, "f", parameters=LARGE)
  save(tmp_path, "slm_pn", family="dense", strategy="generic", parameters=(5, 5_200_000))
  study = results.load(tmp_path)
  assert {row.method: row.kind for row in study.rows} == {
    **dict(a="none", b="importance", c="distilled", d="projected", e="mixture"),
    **dict(f="plain", slm_pn="plain"),
  }
  assert set(study.small) == {*"abcde", "slm_pn"}


def test_missing_and_unfinished_cells_are_named_and_left_out_of_averages(tmp_path):
  expected = cells(*((m, d, 100_000) for m in ("slm", "slm_pn") for d in ("a", "b")))
  save(tmp_path, "slm", "a", after=4)
  save(tmp_path, "slm", "b", after=100)
  save(tmp_path, "slm_pn", "a", after=5)
  path = save(tmp_path, "slm_pn", "b", after=100)
  path.write_text(path.read_text()[:200])
  rows = table(tmp_path, expected)
  assert float(rows["slm", 100_000]["macro_perplexity_after"]) == pytest.approx(4)
  assert rows["slm_pn", 100_000]["perplexity_b_after"] == ""
  for text in (written(tmp_path, expected), terminal.terminal_table(tmp_path, expected)):
    assert "Not there yet, 1 of 4 cells: slm_pn on b (100k)." in text
    assert "over the 1 of 2 domains that every method has: a" in text
    assert path.name in text


def test_cells_are_named_by_what_tells_them_apart(tmp_path):
  save(tmp_path)
  more = cells(("slm", "scipy", 100_000), share=0.25) + cells(("slm", "scipy", 100_000), seed=1)
  said = notes.notes(results.load(tmp_path, more))
  assert said[0] == (
    "Not there yet, 2 of 3 cells: slm on scipy (100k, 25%, seed 0), slm on scipy (100k, 100%,"
    " seed 1)."
  )


def test_failed_jobs_are_told_with_their_reason(tmp_path):
  save(tmp_path)
  (tmp_path / "failed").mkdir()
  text = "The disk is full.\n\nTraceback ...\n"
  (tmp_path / "failed" / "specialize--slm--law--100--b100--s0.txt").write_text(text)
  (said,) = notes.notes(results.load(tmp_path))
  assert said == "Failed: specialize/slm--law--100--b100--s0 (The disk is full)."
  assert said in written(tmp_path)


def test_no_macro_average_without_a_common_domain(tmp_path):
  save(tmp_path, "slm", "a")
  save(tmp_path, "slm_pn", "b")
  assert {row["macro_perplexity_after"] for row in table(tmp_path).values()} == {""}
  assert "no macro averages" in written(tmp_path)


def test_groups_that_lack_the_same_domains_are_told_in_one_sentence(tmp_path):
  for tokens in (1000, 2000):
    save(tmp_path, "slm", "a", tokens)
    save(tmp_path, "slm", "b", tokens)
    save(tmp_path, "slm_pn", "a", tokens)
  (said,) = notes.notes(results.load(tmp_path))
  assert "with 1k and 2k domain tokens are over the 1 of 2 domains" in said


def test_shares_are_averaged_over_the_same_domains(tmp_path):
  for share, domains in ((0.25, "a"), (1.0, "ab")):
    for domain in domains:
      save(tmp_path, "slm", domain, share=share, after=4 if domain == "a" else 100)
  rows = table(tmp_path)
  assert float(rows["slm", 100_000]["macro_perplexity_after"]) == pytest.approx(4)


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
  assert "or that of all small methods together, whichever is larger" in page


def test_scores_too_large_for_a_float_are_infinite(tmp_path):
  def edit(record):
    record["after"]["domain"]["nats"] = 1e7
    record["after"]["generic"]["tokens"] = 0

  change(save(tmp_path), edit)
  row = table(tmp_path)["slm", 100_000]
  assert (row["macro_perplexity_after"], row["generic_perplexity_after"]) == ("inf", "nan")


def test_no_pretraining_is_a_baseline_at_every_share(tmp_path):
  save(tmp_path, "slm_nopt", after=50)
  for share in (0.25, 1.0):
    save(tmp_path, "slm", share=share, after=9)
  study = results.load(tmp_path)
  assert [(row.method, row.share) for row in study.rows] == [
    *(("slm", 0.25), ("slm_nopt", 0.25), ("slm", 1.0), ("slm_nopt", 1.0)),
  ]
  assert len(study.cells) == 3
  assert study.shares == [0.25, 1.0]
  rows = table(tmp_path)
  assert rows["slm_nopt", 100_000]["macro_perplexity_before"] == ""
  assert rows["slm_nopt", 100_000, "0.25"]["pretraining_tokens"] == "0"


def test_no_pretraining_is_a_baseline_where_there_is_another(tmp_path):
  for tokens in (100, 200):
    save(tmp_path, "slm_nopt", tokens=tokens, after=50)
  for tokens, share in ((100, 0.25), (100, 1.0), (200, 1.0)):
    save(tmp_path, "slm", tokens=tokens, share=share, after=9)
  found = [(r.method, r.domain_tokens, r.share) for r in results.load(tmp_path).rows]
  assert found.count(("slm_nopt", 200, 1.0)) == 1
  assert len(found) == 2 * 3


def test_no_pretraining_alone_has_its_own_share(tmp_path):
  save(tmp_path, "slm_nopt")
  assert results.load(tmp_path).shares == [1.0]
  written(tmp_path)


def test_no_results_say_what_to_run(tmp_path):
  with pytest.raises(UserError, match="specialization run"):
    written(tmp_path)
  path = save(tmp_path)
  path.write_text("{")
  with pytest.raises(UserError, match=path.name):
    terminal.terminal_table(tmp_path)


def test_a_record_that_lacks_a_field_is_told(tmp_path):
  save(tmp_path)
  path = save(tmp_path, seed=1)
  change(path, lambda record: record.pop("histograms"))
  (said,) = notes.notes(results.load(tmp_path))
  assert said == f"Could not be read: {path.name} (KeyError: 'histograms')."


def test_a_method_that_is_wanted_on_few_domains_does_not_narrow_the_others(tmp_path):
  for domain, after in (("scipy", 8), ("git", 18)):
    save(tmp_path, "slm", domain, after=after)
    save(tmp_path, "slm_pn", domain, after=after)
  save(tmp_path, "side", after=1, family="projected", flops=(1e15, 5e14))
  wanted = [(m, d, 100_000) for m in ("slm", "slm_pn") for d in ("scipy", "git")]
  study = results.load(tmp_path, cells(*wanted, ("side", "scipy", 100_000)))
  rows = {row.method: row for row in study.rows}
  assert rows["slm"].macro() == pytest.approx(12)
  assert rows["side"].perplexity() is None
  assert rows["side"].macro(domains=("scipy",)) == pytest.approx(1)
  assert rows["side"].spent("flops", "specialization") == 5e14
  assert compare.champion(study, "projected") == "slm_pn"
  # What is missing, though, is not compared on fewer domains unseen.
  unfinished = results.load(tmp_path, cells(*wanted, *((("side", d, 100_000)) for d in ("git",))))
  assert unfinished.rows[0].common == ("scipy", "git")


def test_a_kind_is_represented_by_what_is_best_on_validation_text(tmp_path):
  for tokens in (1000, 2000):
    save(tmp_path, "slm_pn", tokens=tokens, after=8, curve=[[0, 3.0]])
    save(tmp_path, "better", tokens=tokens, after=9, curve=[[0, 2.5]], **KINDS["slm_pn"])
  save(tmp_path, "rare", tokens=1000, after=2, curve=[[0, 1.0]], **KINDS["slm_pn"])
  assert compare.champion(results.load(tmp_path), "projected") == "better"
  assert compare.champion(results.load(tmp_path), "mixture") is None


def test_domains_with_less_text_are_told(tmp_path):
  save(tmp_path, "slm", "git", used_tokens=99_000)
  save(tmp_path, "slm", "scipy", used_tokens=12_345)
  (note,) = notes.notes(results.load(tmp_path))
  assert note == "Less text than was allowed, all there is: scipy (12.35k tokens)."

"""Each section of the report, with numbers that are checked by hand."""

import math

import pytest

from records import cells, entry, log, save, shown
from specialization.config import BudgetsConfig
from specialization.report import results
from specialization.report.figures import Dots, Lines
from specialization.report.sections import (
  budgets,
  clusters,
  costs,
  distillation,
  domains,
  entropy,
  experts,
  horizons,
  importance,
  of,
  rates,
  resources,
  summary,
  tasks,
  training,
)

SPREAD = {"8": {"top_share": 0.9, "entropy": 0.5}, "64": {"top_share": 0.25, "entropy": 2.5}}
NARROW = {"8": {"top_share": 1.0, "entropy": 0.0}, "64": {"top_share": 0.75, "entropy": 1.0}}


def plots(section, kind=Lines):
  return {part.title: part for part in section.parts if isinstance(part, kind)}


def curves(plot):
  return {line.label or line.method: (list(line.x), list(line.y)) for line in plot.series}


def test_summary_has_a_row_per_share_and_method_and_a_column_per_size(tmp_path):
  for share, after in ((0.25, 20), (1.0, 18)):
    for tokens, factor in ((1000, 1), (2000, 0.5)):
      where = dict(tokens=tokens, share=share, flops=(1e15 * share, 1e14))
      save(tmp_path, "slm", before=40 / factor, routed=30, after=factor * after, **where)
  save(tmp_path, "llm", tokens=2000, before=35, generic=(25, 50), after=8, flops=(4e15, 1e14))
  save(tmp_path, "slm_nopt", tokens=1000, after=90)
  assert shown(summary.section(results.load(tmp_path))) == [
    ["slm", "25%: 1M", "2.5e14", "2", "30.00", "40.00", "20.00", "10.00"],
    ["slm_nopt", "none", "–", "–", "–", "–", "90.00", "–"],
    ["llm", "100%: 1M", "4e15", "2", "25.00", "35.00", "–", "8.000"],
    ["slm", "100%: 1M", "1e15", "2", "30.00", "40.00", "18.00", "9.000"],
    ["slm_nopt", "none", "–", "–", "–", "–", "90.00", "–"],
  ]


def test_generic_budget_draws_each_method_through_its_shares(tmp_path):
  for seed in (0, 1):
    for share, after in ((0.25, 9), (1.0, 6)):
      more = dict(share=share, seed=seed, flops=(1e15 * share, 1e14))
      save(tmp_path, "slm", after=after + seed, before=20, **more)
    save(tmp_path, "slm_nopt", after=12, seed=seed)
  found = plots(horizons.section(results.load(tmp_path)))
  assert list(found) == [f"100k domain tokens, {w} fine-tuning" for w in ("before", "after")]
  (line,) = found["100k domain tokens, after fine-tuning"].series
  assert list(line.x) == [2, 2]  # device-hours, the last plot
  by_flops = horizons.section(results.load(tmp_path)).parts[1]
  (line,) = by_flops.series
  assert list(line.x) == [2.5e14, 1e15]
  assert line.y == pytest.approx([math.sqrt(90), math.sqrt(42)])
  assert line.error == pytest.approx([math.sqrt(0.5)] * 2)
  assert by_flops.levels == {"slm_nopt": pytest.approx(12)}
  before = found["100k domain tokens, before fine-tuning"]
  assert not before.levels
  assert before.series[0].y == pytest.approx([20, 20])


def test_a_baseline_far_above_is_told_and_not_drawn(tmp_path):
  for share in (0.25, 1.0):
    save(tmp_path, "slm", share=share, after=9)
  save(tmp_path, "slm_nopt", after=227)
  plot = horizons.section(results.load(tmp_path)).parts[1]
  assert (plot.levels, plot.caption) == ({}, "Above the plot: slm_nopt at 227.0.")


def test_one_share_has_no_plot_of_the_generic_budget(tmp_path):
  save(tmp_path)
  assert horizons.section(results.load(tmp_path)) is None


def test_domains_show_before_after_and_the_gain_over_the_plain_small_model(tmp_path):
  for seed in (0, 1):
    save(tmp_path, "slm", "a", seed=seed, before=32, after=8)
    save(tmp_path, "slm_pn", "a", seed=seed, before=30, after=4 * 2**seed)
    save(tmp_path, "slm_nopt", "a", seed=seed, after=64)
  found = plots(domains.section(results.load(tmp_path)), Dots)
  dots = found["Domains, 100k domain tokens"].series
  assert dots["slm"][0][:2] == pytest.approx((32, 8))
  gains = found["Gain over slm, 100k domain tokens"].series
  assert list(gains) == ["slm_pn"]
  assert "slm_nopt" not in dots
  # log 2 with the first seed, 0 with the second.
  assert gains["slm_pn"][0][1:] == pytest.approx((math.log(2) / 2, math.log(2) / math.sqrt(2)))
  forgetting = found["Forgetting: generic text"].series
  assert forgetting["slm"][0][:2] == pytest.approx((8, 16))


def test_domain_text_is_drawn_where_there_is_more_than_one_amount(tmp_path):
  save(tmp_path, tokens=1000, after=8)
  assert "More domain text" not in plots(domains.section(results.load(tmp_path)))
  save(tmp_path, tokens=2000, after=6)
  plot = plots(domains.section(results.load(tmp_path)))["More domain text"]
  assert curves(plot) == {"slm": ([1000, 2000], pytest.approx([8, 6]))}


def test_quality_against_the_cost_of_tasks(tmp_path):
  for share, after in ((0.5, 9), (1.0, 6)):
    save(tmp_path, "slm", share=share, after=after, flops=(1000 * share, 10))
    save(tmp_path, "slm_is", share=share, after=after - 1, flops=(1000 * share, 10))
  found = plots(costs.section(results.load(tmp_path)))
  assert list(found) == [f"{n}, 100k domain tokens" for n in ("1 task", "7 tasks", "50 tasks")]
  drawn = curves(found["7 tasks, 100k domain tokens"])
  assert drawn["slm"] == ([570, 1070], pytest.approx([9, 6]))
  assert drawn["slm_is"] == ([3570, 7070], pytest.approx([8, 5]))


def test_with_one_share_the_points_are_amounts_of_domain_text(tmp_path):
  for tokens in (1000, 2000):
    save(tmp_path, "slm", tokens=tokens, flops=(1000, tokens / 100))
  found = plots(costs.section(results.load(tmp_path)))
  assert curves(found["1 task"])["slm"][0] == [1010, 1020]


def test_tasks_are_priced_and_crossings_found(tmp_path):
  save(tmp_path, "slm_is", flops=(1000, 100), after=6)  # 1,100 for each task
  data = [entry("data", "embeddings/generic", 300), entry("data", "clusters", 30)]
  data += [entry("data", "embeddings/scipy", 3), entry("data", "validation_embeddings/generic", 9)]
  save(tmp_path, "slm_pn", flops=(2000, 100), after=6.6, ledger=data)  # 2,000 and 100 for each
  section = tasks.section(results.load(tmp_path))
  assert shown(section) == [
    ["slm_is", "100k", "6.000", "0", "1.1e3", "1.1e3", "7.7e3", "5.5e4", "–", "–"],
    ["slm_pn", "100k", "6.600", "2e3", "1e2", "2.1e3", "2.7e3", "7e3", "3.3e2", "3e0"],
  ]
  # 2 x 1,100 = 2,200 = 2,000 + 2 x 100, so that it is the third task that makes it dearer; in
  # device-hours 2.5 N against 2 + 0.5 N, from the second on.
  its = ["slm_is", "100k", "100%", "6.000"]
  rival = ["slm_pn", "100%", "6.600 (+10.0%)", "3", "2"]
  assert shown(section, "At equal pretraining") == [its + rival]
  assert shown(section, "At no worse perplexity") == [[*its, "none", "–", "–", "–", "–"]]
  lines = curves(plots(section)["100k domain tokens"])
  assert lines["slm_pn"][1][:2] == [2100, 2200]


def test_a_rival_with_the_same_price_per_task_never_gets_cheaper(tmp_path):
  save(tmp_path, "slm_is", flops=(0, 100))
  save(tmp_path, "slm_pn", flops=(2000, 100))
  save(tmp_path, "slm_mix", flops=(0, 200))
  rows = shown(tasks.section(results.load(tmp_path)), "At equal pretraining")
  assert [(row[4], row[7]) for row in rows] == [("slm_mix", "never"), ("slm_pn", "never")]


def test_the_first_rival_that_is_no_worse_may_be_pretrained_longer(tmp_path):
  for share, pretraining, after in ((0.25, 1000, 8), (1.0, 4000, 6)):
    save(tmp_path, "slm_is", share=share, flops=(pretraining, 100), after=after)
    save(tmp_path, "slm_pn", share=share, flops=(2 * pretraining, 100), after=after + 1)
    save(tmp_path, "slm_mix", share=share, flops=(3 * pretraining, 100), after=after + 1)
  rows = shown(tasks.section(results.load(tmp_path)), "At no worse perplexity")
  # At 25% 1,100 N against 8,000 + 100 N, from the ninth on; at 100% none is as good.
  assert [row[1:8] for row in rows] == [
    ["100k", "25%", "8.000", "slm_pn", "100%", "7.000 (−12.5%)", "9"],
    ["100k", "100%", "6.000", "none", "–", "–", "–"],
  ]


def test_parameters_speed_and_cost_per_token(tmp_path):
  tested = entry("inference", "test", 0.0, 0.5, 1000)
  save(tmp_path, "slm", ledger=[entry("specialization", "validation", 1e12), tested])
  save(tmp_path, "slm_is", pretraining="slm_is--a")
  save(tmp_path, "slm_pn", parameters=(28_000_000, 5_000_000))
  save(tmp_path, "slm_nopt")
  log(tmp_path, "slm", [100, 900, 300])
  log(tmp_path, "slm_is--a", [200])
  assert shown(resources.section(results.load(tmp_path))) == [
    ["slm", "5M", "5M", "300", "2000", "500", "500000", "1e9", "1e8", "1e7"],
    ["slm_is", "5M", "5M", "200", "–", "1250", "–", "1e9", "1e8", "1e7"],
    ["slm_nopt", "–", "5M", "–", "–", "500", "–", "–", "1e8", "1e7"],
    ["slm_pn", "28M", "5M", "–", "2000", "500", "–", "1e9", "1e8", "1e7"],
  ]


def test_a_teachers_hours_are_not_the_students(tmp_path):
  save(tmp_path, "slm_d", ledger=[entry("generic", "teacher: pretrain llm", 1e15, 100.0)])
  (row,) = shown(resources.section(results.load(tmp_path)))
  assert row[4:8] == ["2000", "500", "–", "1e9"]


def test_experts_of_one_pretraining_are_compared_by_choice(tmp_path):
  for i, choice in enumerate(("most_frequent", "histogram", "all")):
    extra = [entry("specialization", "specialize x, expert 1", 7e14)] if choice == "all" else []
    kind = dict(family="projected", strategy="clustered", clusters=8, pretraining="pn--b100--s0")
    save(tmp_path, f"pn{i}", after=8 - i, before=20 + i, choice=choice, ledger=extra, **kind)
  save(tmp_path, "slm")
  save(tmp_path, "slm_d")  # shares slm's pretraining, and has no other choice
  assert shown(experts.section(results.load(tmp_path))) == [
    _expert("pn0", "most frequent cluster", "25%", "20.00", "8.000", "1e14", "1.000"),
    _expert("pn1", "mixture by histogram", "–", "21.00", "7.000", "1e14", "1.000"),
    _expert("pn2", "best after fine-tuning", "25%", "22.00", "6.000", "8e14", "8.000"),
  ]


def _expert(name, choice, share, before, after, flops, times):
  return [name, choice, "100k", "100%", share, before, after, flops, times, "1"]


def test_budgets_stand_beside_what_was_spent(tmp_path):
  limits = BudgetsConfig(3e15, 0.0, 0.0, 2.0, 1e12, 6_000_000, 0)
  more = [entry("specialization", "validation", 9e15)]
  save(tmp_path, "slm", flops=(1e15, 1e14), ledger=more)
  save(tmp_path, "slm", "git", flops=(1e15, 2e14), used_tokens=50_000)
  ended = {"step": 10, "reason": "end of the budget", "best_step": 10}
  save(tmp_path, "slm_pn", flops=(3e15, 7e15), stopped=ended)
  assert shown(budgets.section(results.load(tmp_path, limits=limits))) == [
    ["budget", "3e15", "7.2e15", "6M", "–", ""],
    ["slm", "1e15", "2e14", "5M", "100k", "0 of 2"],
    ["slm_pn", "3e15", "7e15", "5M", "100k", "1 of 1"],
  ]
  unlimited = BudgetsConfig(0.0, 0.0, 0.0, 0.0, 0.0, 0, 0)
  assert budgets.section(results.load(tmp_path, limits=unlimited)) is None


def test_preparation_is_told_beside_the_cost_of_tasks(tmp_path):
  data = [entry("data", "embeddings/generic", 3e15), entry("data", "embeddings/scipy", 1e13)]
  save(tmp_path, "slm", ledger=data)
  assert "clusters" not in costs.section(results.load(tmp_path)).text
  save(tmp_path, "slm_is", ledger=data)
  said = costs.section(results.load(tmp_path)).text
  assert "with clusters need 3e15 FLOPs for all generic text" in said
  assert "and 1e13 for a domain's." in said


def test_distillation_at_the_students_cost_and_at_total_cost(tmp_path):
  taught = [entry("generic", "teacher: pretrain llm", 8000.0)]
  save(tmp_path, "slm", flops=(1000, 100), after=8)
  save(tmp_path, "slm_d", flops=(1000, 900), after=7, ledger=taught)
  section = distillation.section(results.load(tmp_path))
  found = plots(section)
  student, total = (found[f"{name} cost, 100k domain tokens"] for name in ("Student", "Total"))
  assert curves(student)["slm_d"] == ([1900], pytest.approx([7]))
  assert curves(total)["slm_d"] == ([9900], pytest.approx([7]))
  assert curves(student)["slm"] == curves(total)["slm"] == ([1100], pytest.approx([8]))
  assert shown(section)[1] == ["slm_d", "100k", "100%", "7.000", "1.9e3", "9.9e3", "80.8%"]


def test_a_method_of_some_domains_does_not_narrow_the_others(tmp_path):
  for domain in ("a", "b"):
    save(tmp_path, "slm", domain, after=8)
    save(tmp_path, "slm_d", domain, after=7)
  save(tmp_path, "slm_mix", "a", after=9)
  wanted = [(name, domain, 100_000) for name in ("slm", "slm_d") for domain in ("a", "b")]
  study = results.load(tmp_path, cells(*wanted, ("slm_mix", "a", 100_000)))
  for plot in plots(distillation.section(study)).values():
    assert list(curves(plot)) == ["slm", "slm_d"]
    assert not plot.caption


def test_numbers_of_clusters_join_methods_that_differ_in_nothing_else(tmp_path):
  save(tmp_path, "fine", strategy="importance", clusters=256, after=7)
  save(tmp_path, "rough", strategy="importance", clusters=16, after=9)
  save(tmp_path, "slm", after=10)
  save(tmp_path, "slm_pn", after=8)
  (plot,) = clusters.section(results.load(tmp_path)).parts
  drawn = curves(plot)
  assert drawn == {
    "rough to fine": ([16, 256], pytest.approx([9, 7])),
    "rough": ([16], pytest.approx([9])),
    "fine": ([256], pytest.approx([7])),
  }
  assert plot.levels == {"slm": pytest.approx(10)}


def test_clusters_and_domains(tmp_path):
  save(tmp_path, "slm", "all over", after=8, histograms=SPREAD)
  save(tmp_path, "slm", "narrow", after=8, histograms=NARROW)
  save(tmp_path, "slm_pn", "all over", after=16, histograms=SPREAD)
  save(tmp_path, "slm_pn", "narrow", after=4, histograms=NARROW)
  section = entropy.section(results.load(tmp_path))
  assert shown(section) == [
    ["narrow", "100%", "0.000", "75%", "1.000"],
    ["all over", "90%", "0.500", "25%", "2.500"],
  ]
  (plot,) = plots(section).values()
  assert curves(plot) == {"slm_pn": ([1.0, 2.5], pytest.approx([math.log(2), -math.log(2)]))}
  assert plot.ticks == {"narrow": 1.0, "all over": 2.5}


def test_few_documents_do_not_make_a_domain_narrow(tmp_path):
  for method in ("slm", "slm_pn"):
    save(tmp_path, method, "all over", 1000, histograms=NARROW)
    save(tmp_path, method, "all over", 9000, histograms=SPREAD)
  section = entropy.section(results.load(tmp_path))
  assert shown(section) == [["all over", "90%", "0.500", "25%", "2.500"]]
  assert [plot.ticks for plot in plots(section).values()] == 2 * [{"all over": 2.5}]


def test_importance_sampling_is_diagnosed_by_domain(tmp_path):
  save(tmp_path, "slm_is", "a")
  save(tmp_path, "slm", "a")
  assert shown(importance.section(results.load(tmp_path))) == [
    ["a", "slm_is", "64", "321", "1.234k", "98.77k", "6.250", "12.5%", "0.051", "1.500"]
  ]


def test_learning_rates_are_chosen_on_validation_text_for_each_method(tmp_path):
  def one(name, pretraining, fine_tuning, validation, after, **kind):
    chosen = dict(pretraining=pretraining, fine_tuning=fine_tuning)
    curve = [[0, 9.0], [50, math.log(validation)], [100, 8.0]]
    save(tmp_path, name, after=after, learning_rates=chosen, curve=curve, **kind)

  one("slm-1", 1e-3, 5e-4, 12, 10)
  one("slm-2", 2e-3, 5e-4, 11, 13)
  one("nopt-1", 2e-3, 1e-3, 80, 70, strategy="none")
  one("nopt-2", 2e-3, 2e-3, 60, 50, strategy="none")
  save(tmp_path, "slm_pn")
  section = rates.section(results.load(tmp_path))
  assert shown(section) == [
    ["nopt-1", "100k", "none", "–", "0.001", "80.00", "70.00"],
    ["nopt-2", "100k", "none", "–", "0.002", "60.00", "50.00"],
    ["slm-1", "100k", "100%", "0.001", "0.0005", "12.00", "10.00"],
    ["slm-2", "100k", "100%", "0.002", "0.0005", "11.00", "13.00"],
  ]
  (table,) = section.parts
  assert [[row[5].best for row in body] for body in table.bodies] == [[False, True]] * 2


def test_training_shows_losses_and_the_step_that_was_kept(tmp_path):
  save(tmp_path, "slm", "a")
  save(tmp_path, "slm_d", "a")  # begins from the same pretraining, which is drawn once
  log(tmp_path, "slm", [1.0, 1.0])
  found = plots(training.section(results.load(tmp_path)))
  assert curves(found["Pretraining"]) == {"slm": ([10, 20], [9, 4.5])}
  line = found["Fine-tuning on a"].series[0]
  assert (list(line.x), line.star) == ([0, 50, 100, 150], 100)


def test_long_curves_are_thinned_to_means():
  assert training.thin([float(i) for i in range(400)]) == [2 * i + 0.5 for i in range(200)]
  assert training.thin([3.0, 1.0]) == [3.0, 1.0]
  assert training.thin([]) == []


def test_one_cell_has_no_section_without_content(tmp_path):
  save(tmp_path)
  titles = [section.title for section in of(results.load(tmp_path))]
  assert titles == [
    *("Results", "The paper's claims", "Domains", "Quality against cost"),
    *("Cost by number of tasks", "Parameters and throughput", "Clusters and domains", "Training"),
  ]

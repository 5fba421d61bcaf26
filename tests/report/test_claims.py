"""The paper's claims, holding and not, and the advice that the numbers give."""

import math

import pytest

from records import cells, entry, save
from specialization.report import results
from specialization.report.compare import correlation, front, noise, verdict
from specialization.report.results import Value
from specialization.report.sections import advice
from specialization.report.sections.claims import claims, section

DOMAINS = tuple("abcdefghi")


def found(work):
  return {claim.text: claim for claim in claims(results.load(work))}


def claim(work, *words):
  """Returns the one claim that has all words."""
  (one,) = [c for text, c in found(work).items() if all(word in text for word in words)]
  return one


def spread(entropy):
  return {"64": {"top_share": 0.5, "entropy": entropy}}


@pytest.mark.parametrize(("bare", "said"), [(40, "holds"), (9.5, "does not hold")])
def test_no_pretraining_is_far_the_worst(tmp_path, bare, said):
  save(tmp_path, "slm", after=8)
  save(tmp_path, "slm_mix", after=10)
  save(tmp_path, "slm_nopt", after=bare)
  one = claim(tmp_path, "Without pretraining")
  assert one.verdict == f"{said} (one seed)"
  assert f"slm_nopt {bare:.2f}" in one.numbers or f"slm_nopt {bare:.3f}" in one.numbers
  assert f"{bare / 10:.3g} times the next worst, slm_mix 10.00" in one.numbers


@pytest.mark.parametrize(("after", "said"), [(20, "holds"), (40, "does not hold")])
def test_fine_tuning_is_essential(tmp_path, after, said):
  save(tmp_path, "slm", before=32, after=8)
  save(tmp_path, "slm_pn", before=32, after=after)
  one = claim(tmp_path, "Fine-tuning")
  assert one.verdict == f"{said} (one seed)"
  assert f"{after / 32 - 1:+.1%} (slm_pn, 100k tokens)".replace("-", "−") in one.numbers
  assert "−75.0% (slm, 100k tokens)" in one.numbers


@pytest.mark.parametrize(("after", "said"), [(6, "holds"), (7.5, "does not hold")])
def test_importance_sampling_is_the_best_small_method(tmp_path, after, said):
  save(tmp_path, "slm", after=8)
  save(tmp_path, "slm_pn", after=7)
  save(tmp_path, "slm_is", after=after)
  save(tmp_path, "other_is", strategy="importance", clusters=8, after=9)
  save(tmp_path, "llm", after=3)  # is not small
  save(tmp_path, "slm", tokens=200_000, after=1)  # is not with the least domain text
  one = claim(tmp_path, "importance sampling is the best")
  assert one.verdict == f"{said} (one seed)"
  change = f"{after / 7 - 1:+.1%}".replace("-", "−")
  assert one.numbers.startswith(f"100k tokens: slm_is {after:.3f} against slm_pn 7.000 ({change},")


@pytest.mark.parametrize(
  ("seconds", "said"),
  [((7.0, 7.1), "holds"), ((9.0, 9.1), "does not hold"), ((7.0, 9.0), "too close to call")],
)
@pytest.mark.parametrize(("method", "name"), [("slm_pn", "projected"), ("slm_mix", "mixture")])
def test_gains_are_weighed_against_the_seeds(tmp_path, method, name, seconds, said):
  for seed, after in enumerate(seconds):
    save(tmp_path, "slm", seed=seed, after=8)
    save(tmp_path, method, seed=seed, after=after)
  one = claim(tmp_path, name, "beats the plain small model")
  assert one.verdict == said
  logs = [math.log(8 / after) for after in seconds]
  mean, deviation = sum(logs) / 2, abs(logs[0] - logs[1]) / math.sqrt(2)
  assert f"{mean:+.3f} ± {deviation:#.2g} nats".replace("-", "−") in one.numbers


@pytest.mark.parametrize(("more", "said"), [(8.0, "holds"), (4.0, "does not hold")])
def test_gain_shrinks_with_domain_text(tmp_path, more, said):
  save(tmp_path, "slm", tokens=1000, after=8)
  save(tmp_path, "slm_pn", tokens=1000, after=6)
  save(tmp_path, "slm", tokens=2000, after=8)
  save(tmp_path, "slm_pn", tokens=2000, after=more)
  one = claim(tmp_path, "projected", "shrinks")
  assert one.verdict == f"{said} (one seed)"
  assert one.numbers == (
    f"slm_pn: +0.288 with 1k tokens; {math.log(8 / more):+.3f} with 2k tokens."
  )


def test_a_loss_that_shrinks_is_no_gain_that_grows(tmp_path):
  for share, after in ((0.25, 20), (1.0, 9)):
    save(tmp_path, "slm", share=share, after=8)
    save(tmp_path, "slm_mix", share=share, after=after)
  assert claim(tmp_path, "mixture", "grows").verdict == "does not hold (one seed)"


def test_where_there_is_no_gain_none_shrinks(tmp_path):
  for tokens, after in ((1000, 8.4), (2000, 9)):
    save(tmp_path, "slm", tokens=tokens, after=8)
    save(tmp_path, "slm_pn", tokens=tokens, after=after)
  assert claim(tmp_path, "projected", "shrinks").verdict == "does not hold (one seed)"


@pytest.mark.parametrize(("less", "said"), [(7.9, "holds"), (4.0, "does not hold")])
def test_gain_grows_with_pretraining(tmp_path, less, said):
  for share, after in ((0.25, less), (1.0, 6)):
    save(tmp_path, "slm", share=share, after=8)
    save(tmp_path, "slm_mix", share=share, after=after)
  one = claim(tmp_path, "mixture", "grows")
  assert one.verdict == f"{said} (one seed)"
  assert one.numbers == f"slm_mix: {math.log(8 / less):+.3f} with 25%; +0.288 with 100%."


@pytest.mark.parametrize(
  ("after", "teacher", "said"),
  [
    (6.5, 4000.0, "holds"),
    (5.5, 4000.0, "too close to call"),  # A rival for a fifth of it does not tell.
    (5.5, 10.0, "does not hold"),
  ],
)
def test_distillation_at_equal_total_cost(tmp_path, after, teacher, said):
  """The rival is the best that costs no more: slm_is is better, and too dear."""
  taught = [entry("generic", "teacher: pretrain llm", teacher)]
  save(tmp_path, "slm", flops=(1000, 100), after=8)
  save(tmp_path, "slm_pn", flops=(1000, 100), after=6)
  save(tmp_path, "slm_is", flops=(9000, 100), after=2)
  save(tmp_path, "slm_d", flops=(1000, 100), after=after, ledger=taught)
  one = claim(tmp_path, "equal total cost")
  assert one.verdict == f"{said} (one seed)"
  assert f"slm_pn 6.000 against slm_d {after:.3f}" in one.numbers
  part = {4000.0: "21.6% of its 5.1e3", 10.0: "99.1% of its 1.11e3"}[teacher]
  assert one.numbers.endswith(f"for {part} FLOPs.")
  assert claim(tmp_path, "teacher comes free").verdict == "holds (one seed)"


def test_distillation_without_a_cheaper_rival_is_not_judged(tmp_path):
  save(tmp_path, "slm", flops=(1000, 100))
  save(tmp_path, "slm_d", flops=(900, 90))
  assert not [text for text in found(tmp_path) if "equal total cost" in text]


@pytest.mark.parametrize(
  ("sign", "said", "rho"), [(1, "holds", "−1.00"), (-1, "does not hold", "+1.00")]
)
def test_gain_falls_with_entropy(tmp_path, sign, said, rho):
  for i, domain in enumerate(DOMAINS):
    save(tmp_path, "slm", domain, after=8, histograms=spread(float(i)))
    after = 8 * math.exp(sign * (i - 4) / 10)
    save(tmp_path, "slm_pn", domain, after=after, histograms=spread(float(i)))
  one = claim(tmp_path, "projected", "spread over many clusters")
  assert one.verdict == f"{said} (one seed)"
  assert f"over 64 clusters: {rho} over 9 domains, by chance within ±0.71" in one.numbers


def test_a_weak_correlation_over_few_domains_is_too_close_to_call(tmp_path):
  for i, domain in enumerate(DOMAINS):
    save(tmp_path, "slm", domain, after=8, histograms=spread(float(i)))
    save(tmp_path, "slm_pn", domain, after=8 - (i * 4 % 9) / 9, histograms=spread(float(i)))
  one = claim(tmp_path, "projected", "spread over many clusters")
  assert one.verdict == "too close to call (one seed)"


def test_domains_that_are_spread_alike_have_no_correlation(tmp_path):
  for domain in DOMAINS:
    save(tmp_path, "slm", domain)
    save(tmp_path, "slm_pn", domain)
  assert not [text for text in found(tmp_path) if "spread over" in text]


@pytest.mark.parametrize(
  ("half", "said", "numbers"),
  [
    (6.5, "holds", "with 2 tasks slm_pn 7.000 against slm_is 6.500 (+7.7%, −0.074 nats) at 50%"),
    (8.0, "holds", "with 1 task slm_pn 7.000 against slm_is 6.000 (+16.7%, −0.154 nats) at 100%"),
  ],
)
def test_with_more_tasks_less_pretraining_is_left_for_each(tmp_path, half, said, numbers):
  save(tmp_path, "slm_is", flops=(2000, 100), after=6)
  save(tmp_path, "slm_is", flops=(1000, 100), share=0.5, after=half)
  for share in (0.5, 1.0):
    save(tmp_path, "slm_pn", flops=(2000, 100), share=share, after=7)
  one = claim(tmp_path, "Beyond some number of tasks")
  assert one.verdict.partition(" (")[0] == said
  before, after = one.numbers.split("; ")
  assert before == f"{numbers} of pretraining"
  if half < 7:
    assert after == "with 3 tasks slm_is cannot be had for as much."
  else:
    assert after.startswith("with 2 tasks slm_pn 7.000 against slm_is 8.000 (−12.5%,")


def test_importance_sampling_that_never_loses(tmp_path):
  save(tmp_path, "slm_is", flops=(0, 100), after=6)
  save(tmp_path, "slm_pn", flops=(2000, 100), after=7)
  one = claim(tmp_path, "Beyond some number of tasks")
  assert one.verdict == "does not hold"
  assert one.numbers.startswith("Not up to 100 tasks: with 100 tasks slm_pn 7.000 against slm_is")


def test_only_what_can_be_tested_is_claimed(tmp_path):
  save(tmp_path, "slm")
  assert [text.split()[0] for text in found(tmp_path)] == ["Fine-tuning"]
  assert section(results.load(tmp_path)).parts[0].bodies[0][0][1] == "✓ holds (one seed)"


def test_names_do_not_matter(tmp_path):
  same = dict(parameters=(9, 9))
  save(tmp_path, "slm_nopt", strategy="generic", after=8, **same)
  save(tmp_path, "slm", strategy="none", after=40, **same)
  save(tmp_path, "llm", family="projected", strategy="clustered", after=6, **same)
  texts = found(tmp_path)
  assert texts["Without pretraining a model is far the worst."].verdict == "holds (one seed)"
  assert "llm 6.000 against slm_nopt" in claim(tmp_path, "projected", "beats").numbers


def test_verdicts():
  assert verdict([Value(1.0, 0.4), Value(0.5, 0.2)], 0.0) == "holds"
  assert verdict([Value(1.0, 0.4), Value(0.5, 0.3)], 0.0) == "too close to call"
  assert verdict([Value(1.0, 0.4), Value(-0.5, 0.2)], 0.0) == "does not hold"
  assert verdict([Value(1.0, 0.4), Value(0.1, None)], 0.0) == "holds (one seed)"
  assert verdict([Value(math.nan, None)], 0.0) == "too close to call (one seed)"


def test_no_number_counts_that_is_within_the_deviation_of_others():
  assert verdict([Value(0.5, 0.01)], 0.2) == "holds"
  assert verdict([Value(0.3, 0.01)], 0.2) == "too close to call"
  assert verdict([Value(-0.3, None)], 0.2) == "too close to call (one seed)"
  assert verdict([Value(-0.5, None)], 0.2) == "does not hold (one seed)"


def test_noise_is_pooled_over_what_has_several_seeds(tmp_path):
  save(tmp_path, "slm", after=8)
  save(tmp_path, "slm_is", after=7)
  assert noise(results.load(tmp_path)) == pytest.approx(0.005)
  for seed in (0, 1):
    for tokens, move in ((100_000, 0.3), (200_000, 0.4)):
      save(tmp_path, "slm", tokens=tokens, seed=seed, after=8)
      save(tmp_path, "slm_pn", tokens=tokens, seed=seed, after=8 * math.exp(seed * move))
      save(tmp_path, "slm_nopt", tokens=tokens, seed=seed, after=40 + 40 * seed)
      save(tmp_path, "llm", tokens=tokens, seed=seed, after=2 + 2 * seed)
  deviation = math.sqrt((0.3**2 + 0.4**2) / 2 / 2)
  assert noise(results.load(tmp_path)) == pytest.approx(deviation)
  one = claim(tmp_path, "importance sampling is the best")
  assert one.verdict == "too close to call (one seed)"


def test_rows_are_compared_over_the_seeds_of_both(tmp_path):
  for seed, after in ((0, 8), (1, 80)):
    save(tmp_path, "slm", seed=seed, after=after)
  save(tmp_path, "slm_is", after=4)
  one = claim(tmp_path, "importance sampling is the best")
  assert one.numbers == "100k tokens: slm_is 4.000 against slm 8.000 (−50.0%, +0.693 nats)."


def test_validation_text_chooses_between_methods_of_a_kind(tmp_path):
  save(tmp_path, "slm", after=8)
  save(tmp_path, "slm_is", after=7, curve=[[0, 1.0]])
  save(tmp_path, "other_is", strategy="importance", clusters=8, after=6, curve=[[0, 2.0]])
  one = claim(tmp_path, "importance sampling is the best")
  assert one.numbers.startswith("100k tokens: slm_is 7.000")


def test_rank_correlation():
  assert correlation([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]) == pytest.approx(1)
  assert correlation([1.0, 2.0, 3.0], [3.0, 1.0, 2.0]) == pytest.approx(-0.5)
  assert correlation([1.0, 2.0, 2.0, 3.0], [1.0, 2.0, 2.0, 9.0]) == pytest.approx(1)
  assert math.isnan(correlation([1.0, 2.0], [5.0, 5.0]))


def test_the_front_has_what_is_worth_its_cost(tmp_path):
  for name, cost, after in (
    *(("cheap", 100, 9), ("dear", 900, 9.5), ("level", 200, 8.95), ("better", 300, 7)),
    *(("best", 400, 6), ("wild", 50, math.nan), ("nearly", 390, 6.5)),
  ):
    save(tmp_path, name, flops=(cost, 0), after=after)
  rows = results.load(tmp_path).rows
  shown = [(row.method, cost) for row, cost in front(rows, lambda r: r.tasks(1), ("scipy",))]
  assert shown == [("cheap", 100), ("better", 300), ("best", 400)]


def test_words_say_who_wins_by_how_much(tmp_path):
  for domain in ("a", "b"):
    save(tmp_path, "slm", domain, after=8)
    save(tmp_path, "slm_is", domain, after=6 if domain == "a" else 9)
    save(tmp_path, "llm", domain, after=4)
  best, *_, forgetting = advice.words(results.load(tmp_path))
  assert best == (
    "With 100k domain tokens the best small model is slm_is (7.348). slm_is is 8.1% below slm"
    " (8.000), and the best small model on 1 of 2 domains. The large model llm gives 4.000, 45.6%"
    " below it, with 30M parameters at inference in place of 5M."
  )
  assert "changes the perplexity on generic text by +100.0% (llm" in forgetting


def test_words_pass_over_what_has_no_rival(tmp_path):
  """A method that is wanted on one domain alone, and a share at which only one is pretrained."""
  for domain in ("a", "b"):
    save(tmp_path, "slm", domain, after=8)
    save(tmp_path, "slm", domain, share=0.25, after=9)
    save(tmp_path, "slm_is", domain, after=6)
    save(tmp_path, "slm_nopt", domain, after=90)
  save(tmp_path, "few_is", "b", strategy="importance", clusters=8, after=6.5)
  names = [(name, d, 100_000) for name in ("slm", "slm_is", "slm_nopt") for d in ("a", "b")]
  expected = cells(*names, ("few_is", "b", 100_000))
  best = advice.words(results.load(tmp_path, expected))[0]
  assert best == (
    "With 100k domain tokens the best small model is slm_is (6.000 at 100% of pretraining). slm_is"
    " is 25.0% below slm (8.000), and the best small model on 2 of 2 domains."
  )


def test_words_name_the_best_at_each_generic_budget(tmp_path):
  for share, after in ((0.25, 9), (1.0, 5)):
    save(tmp_path, "slm", share=share, after=7)
    save(tmp_path, "slm_pn", share=share, after=after)
  best = advice.words(results.load(tmp_path))[0]
  assert best.startswith(
    "With 100k domain tokens the best small model is slm (7.000 at 25%) and slm_pn (5.000"
    " at 100% of pretraining)."
  )


@pytest.mark.parametrize(("second", "said"), [(9.0, "less"), (40.0, "more")])
def test_words_weigh_the_margin_against_the_seeds(tmp_path, second, said):
  for seed in (0, 1):
    save(tmp_path, "slm", seed=seed, after=8 + 3 * seed)
    save(tmp_path, "slm_pn", seed=seed, after=second)
  best = advice.words(results.load(tmp_path))[0]
  assert f"{said} than twice the deviation between seeds" in best
  assert ("too close to call" in best) == (said == "less")


def test_words_choose_by_number_of_tasks_and_by_the_cost_of_a_domain(tmp_path):
  save(tmp_path, "slm_is", flops=(1000, 100), after=6)  # 1,100 for each task
  save(tmp_path, "slm_pn", flops=(2000, 100), after=7)  # 2,000 and 100 for each
  save(tmp_path, "slm_nopt", flops=(0, 1), after=99)
  _, by_tasks, by_domain, _ = advice.words(results.load(tmp_path))
  assert by_tasks == (
    "By total cost with 100k domain tokens: for 1 task slm_is (1.1e3 FLOPs, 6.000) is the cheapest"
    " and the best; for 7 tasks slm_pn (2.7e3 FLOPs, 7.000) is the cheapest and slm_is (7.7e3"
    " FLOPs, 6.000) the best; for 50 tasks slm_pn (7e3 FLOPs, 7.000) is the cheapest and slm_is"
    " (5.5e4 FLOPs, 6.000) the best."
  )
  assert by_domain == (
    "By what may be spent on one domain, generic training aside: with 100k tokens slm_pn (1e2"
    " FLOPs, 7.000) under 2e2 FLOPs, slm_is (1.1e3 FLOPs, 6.000) above."
  )


def test_words_say_when_one_model_is_the_best_at_any_price(tmp_path):
  save(tmp_path, "slm", after=8)
  save(tmp_path, "slm_pn", after=7)
  by_domain = advice.words(results.load(tmp_path))[2]
  assert by_domain.endswith("slm_pn (1e14 FLOPs, 7.000) always.")


def test_a_correlation_over_four_domains_says_nothing(tmp_path):
  for i, domain in enumerate(DOMAINS[:4]):
    save(tmp_path, "slm", domain, after=8, histograms=spread(float(i)))
    save(tmp_path, "slm_pn", domain, after=5 + i, histograms=spread(float(i)))
  assert not [text for text in found(tmp_path) if "spread over" in text]

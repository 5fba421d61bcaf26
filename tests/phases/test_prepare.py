"""Held-out text is limited: generic text and domains each on their own."""

import pytest

import tiny_study
from specialization import main
from specialization.phases.prepare import Prepared


@pytest.mark.parametrize(("generic", "domain"), [(120, 0), (0, 120)])
def test_held_out_text_is_limited(tmp_path, generic, domain):
  tiny_study.write_corpus(tmp_path / "corpus")
  limits = {"data.max_generic_evaluation_tokens": generic, "data.max_evaluation_tokens": domain}
  config = main.load_config(f"{tiny_study.__file__}:{tmp_path / 'corpus'}", limits)
  data = Prepared(config, tmp_path / "study")
  law = data.domain("law")
  held_out = {generic: [data.validation], domain: [law.validation, law.test]}
  assert all(0 < store.n_tokens <= 120 for store in held_out[120])
  assert all(store.n_tokens > 120 for store in held_out[0])

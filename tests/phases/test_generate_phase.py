"""Text by a model: where it stops, and what of it is shown when."""

import jax
import pytest

import packages
from specialization.data.tokenizer import Tokenizer
from specialization.errors import UserError
from specialization.generate import Sampling
from specialization.phases import generate

DRAWN = Sampling(1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  (folder / "tokenizer.json").write_text(packages.trained())
  of = packages.transformer()
  return generate.Model(of, of.initialize(jax.random.key(0)), Tokenizer(folder), 64)


def test_a_text_ends_before_what_stops_it(model):
  (whole,) = model.generate(["a"], 60, DRAWN, seed=1)
  stop = whole[20:23]
  (cut,) = model.generate(["a"], 60, DRAWN, [stop, "not there"], seed=1)
  assert cut == whole[: whole.index(stop)]
  assert model.generate(["a"], 60, DRAWN, ["not there"], seed=1) == [whole]
  assert model.generate([]) == []


def test_nothing_is_computed_when_all_have_stopped(model):
  texts = model.generate(["a", "b"], 60, DRAWN, seed=1)
  stops = [text[3:6] for text in texts]
  seen = list(model.stream(["a", "b"], 60, DRAWN, stops, seed=1))
  assert len(seen) < len(list(model.stream(["a", "b"], 60, DRAWN, seed=1)))


@pytest.mark.parametrize("at", range(10, 40, 3))
def test_what_may_be_a_stop_is_not_shown(model, capsys, at):
  asked = dict(prompt="a", prompts="", batch=1, tokens=60, seed=1, temperature=1.0)
  generate.answer(model, stop=[], **asked)
  whole = capsys.readouterr().out
  stop = whole[at : at + 6]
  generate.answer(model, stop=[stop], **asked)
  assert capsys.readouterr().out == whole[: whole.index(stop)] + "\n"


@pytest.mark.parametrize("length", range(2, 60, 4))
def test_nothing_of_a_stop_is_shown_where_it_comes_first(model, capsys, length):
  asked = dict(prompt="a", prompts="", batch=1, tokens=60, seed=1, temperature=1.0)
  generate.answer(model, stop=[], **asked)
  stop = capsys.readouterr().out[1 : 1 + length]
  generate.answer(model, stop=[stop], **asked)
  assert capsys.readouterr().out == "a\n"


def test_lines_of_a_file_do_not_depend_on_the_batch(model, tmp_path, capsys):
  file = tmp_path / "prompts"
  file.write_text("a\nb\u2028c\n\na\n")
  said = []
  for batch in (1, 3, 16):
    asked = dict(prompts=str(file), prompt="", tokens=20, stop=[], seed=2, temperature=1.0)
    generate.answer(model, batch=batch, **asked)
    said.append(capsys.readouterr().out)
  assert said[0] == said[1] == said[2]
  lines = (
    said[0].splitlines(keepends=False) if "\u2028" not in said[0] else said[0].split("\n")[:-1]
  )
  assert len(lines) == 4
  assert lines[0] != lines[3]  # the same prompt, drawn anew
  file.write_text("a\n" + "a b c " * 40)
  with pytest.raises(
    UserError, match=r"Line 2: A prompt of \d+ tokens and 20 more are beyond the 64"
  ):
    generate.answer(model, batch=1, **asked)

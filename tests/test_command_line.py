"""Flags of the command line that are not fields of the config."""

import json

import pytest

import tiny_study
from specialization import main

PAPER = str(tiny_study.ROOT / "configs" / "paper.py")


def printed(capsys, *arguments):
  main.main([*arguments])
  return capsys.readouterr().out


def mesh(capsys, *words):
  said = printed(capsys, "run", f"--config={PAPER}", "--print_config", *words)
  return json.JSONDecoder().raw_decode(said)[0]["mesh"]


@pytest.mark.parametrize("words", [["--mesh=fsdp"], ["--mesh", "fsdp"]])
def test_a_preset_sets_the_mesh(capsys, words):
  assert mesh(capsys, *words) == {"expert": 1, "data": 1, "fsdp": -1, "model": 1}


def test_a_field_that_is_given_overrides_the_preset(capsys):
  found = mesh(capsys, "--config.mesh.model=2", "--mesh=fsdp")
  assert found == {"expert": 1, "data": 1, "fsdp": -1, "model": 2}


def test_describe_says_where_parameters_lie_on_devices_that_are_not_there(capsys):
  said = printed(capsys, "describe", f"--config={PAPER}", "--mesh=experts_fsdp", "--devices=64")
  lines = {line.split()[0]: line for line in said.splitlines() if line}
  assert "slm_mix on expert=16, data=1, fsdp=4, model=1:" in said
  assert "slm on expert=1, data=16, fsdp=4, model=1:" in said
  share = [line for line in said.splitlines() if line.endswith("lie whole on every device.")]
  assert len(share) == 7
  basis = lines["layers/mlp/gate/basis"]
  layers, rank, d_in, d_out = 7, 24, 1024, 2816
  assert f"({layers}, {rank}, {d_in}, {d_out})" in basis
  assert "layersxrankxbasisxmlp" in basis
  assert basis.split()[-1] == f"{4 * layers * rank * d_in * d_out // 64:,}"


@pytest.mark.parametrize(
  ("words", "refusal"),
  [
    (["--mesh=fsdb"], "--mesh='fsdb' is unknown: did you mean 'fsdp'"),
    (["--mesh=experts", "--devices=3"], "does not divide over"),
    (["--config.mesh.fsdp=3", "--devices=16"], "does not divide the 16 devices"),
    (["--coordinator=here:1", "--processes=2", "--process=2"], "--process=2 of --processes=2"),
    (["--coordinator=here", "--processes=2", "--process=1"], "--coordinator=here is no address"),
  ],
)
def test_what_is_refused(words, refusal):
  with pytest.raises(main.UserError) as refused:
    main.main(["describe", f"--config={PAPER}", *words])
  assert refusal in str(refused.value)

"""launch/local_processes.sh, with a shell in Python's place; tests/system has real processes."""

import functools
import signal
import subprocess

import pytest

import shell
from shell import ROOT, bash, executable, sentence

SCRIPT = "local_processes.sh"
STUDY = ("run", "--config=configs/slm.py")

# Process N notes that it is there, and ends as END_N says, or when it is told to, after it saved.
PYTHON = r"""#!/bin/bash
for word in "$@"; do
  [[ $word != --process=* ]] || number=${word#--process=}
done
end=END_$number
echo "$JAX_NUM_CPU_DEVICES ${*@Q}"
trap 'sleep 0.2; echo saved; exit 143' TERM
: >"$NOTES/$number"
[[ ${!end:-} == "" ]] || exit "${!end}"
for ((i = 0; i < 300; i++)); do sleep 0.02; done
"""


@pytest.fixture
def machine(bin, tmp_path):
  """Returns the script of a checkout of its own, and the environment of its commands."""
  checkout, notes = shell.clone(tmp_path / "a clone"), tmp_path / "notes"
  notes.mkdir()
  executable(checkout / ".venv/bin/python", PYTHON)
  shell.link(bin, "sleep")
  return checkout / "launch" / SCRIPT, dict(path=bin, NOTES=str(notes))


def said(workdir, number):
  return (workdir / f"logs/process-{number}.txt").read_text()


def test_dry_run():
  text = shell.dry_run(SCRIPT, "--processes=2", "--devices=4", "--", *STUDY, "--workdir=a b")
  made, *started = text.splitlines()
  assert made == "mkdir -p 'a b/logs'"
  command = (
    f"env PYTHONUNBUFFERED=1 JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4 {ROOT}/.venv/bin/python"
    " -m specialization run --config=configs/slm.py '--workdir=a b' --coordinator=localhost:8476"
    " --processes=2 --process={0} >'a b/logs/process-{0}.txt' 2>&1 &"
  )
  assert started == [command.format(1), command.format(0)]


def test_the_devices_that_are_there_and_a_workdir_in_two_words():
  text = shell.dry_run(SCRIPT, "--processes=1", "--port=9", "--", *STUDY, "--workdir", "w")
  assert "JAX" not in text
  assert "--coordinator=localhost:9 " in text
  assert ">w/logs/process-0.txt" in text


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    ([], "How many processes?"),
    (["--processes=0"], "--processes=0 is not a number"),
    (["--processes=two"], "--processes=two is not a number"),
    (["--processes=2", "--devices=-1"], "--devices=-1 is not a number"),
    (["--processes=2"], "What is to run?"),
    (["--processes=2", "--"], "What is to run?"),
    (["--colour=red"], "flag --colour=red is unknown"),
    (["--processes"], "flag --processes is unknown or lacks its =VALUE"),
  ],
)
def test_wrong_flags_are_one_sentence(arguments, told):
  assert told in sentence(bash(ROOT / "launch" / SCRIPT, "--dry_run", *arguments))


def test_without_an_environment_it_says_so(bin, tmp_path):
  script = shell.clone(tmp_path / "clone") / "launch" / SCRIPT
  assert "quickstart.sh makes it" in sentence(bash(script, "--processes=1", "--", "run", path=bin))


@pytest.mark.parametrize(("ends", "status"), [((0, 0), 0), ((0, 2), 2), ((143, 143), 143)])
def test_it_runs_all_and_ends_as_they_do(machine, tmp_path, ends, status):
  script, environment = machine
  after = {f"END_{i}": str(end) for i, end in enumerate(ends)}
  study = (*STUDY, f"--workdir={tmp_path}/w", "--only=it's *")
  result = bash(script, "--processes=2", "--devices=4", "--", *study, **environment, **after)
  assert result.returncode == status, result
  for number in range(2):
    words = said(tmp_path / "w", number)
    assert words.startswith("4 '-m' 'specialization' 'run' ")
    assert "'--only=it'\\''s *'" in words
    assert f"'--processes=2' '--process={number}'" in words
  assert said(tmp_path / "w", 0) in result.stdout
  assert "'--process=1'" not in result.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_go_to_all_and_all_may_save(machine, tmp_path, number):
  script, environment = machine
  command = ["bash", script, "--processes=2", "--", *STUDY, f"--workdir={tmp_path}/w"]
  variables = shell.environment(**environment)
  # A shell cannot trap what was ignored when it began, as SIGINT is in what runs in the background.
  heed = functools.partial(signal.signal, number, signal.SIG_DFL)
  with subprocess.Popen(
    command, env=variables, stdout=subprocess.PIPE, text=True, preexec_fn=heed
  ) as started:
    shell.until(lambda: len(list((tmp_path / "notes").iterdir())) == 2)
    started.send_signal(number)
    shown = started.communicate(timeout=30)[0]
  assert started.returncode == 143
  assert shown.endswith("saved\n")
  assert said(tmp_path / "w", 1).endswith("saved\n")

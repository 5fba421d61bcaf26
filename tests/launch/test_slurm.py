"""launch/slurm.sh: the job it would submit, and what that does among commands in SLURM's place."""

import shlex
import signal
import subprocess

import pytest

import shell
from shell import ROOT, bash, executable, sentence

JOB = ("--name=slm", "--nodes=2", "--gpus=8", "--time=12:00:00")
STUDY = ("--config=configs/slm.py", "--workdir=/shared/runs/slm")


def job(*flags):
  """Returns the batch script that a dry run prints."""
  (script,) = shell.documents(shell.dry_run("slurm.sh", "submit", *flags))
  assert shell.is_bash(script)
  return script


def directives(script):
  lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
  return [word for line in lines for word in line.removeprefix("#SBATCH ").split()]


def test_directives():
  assert directives(job(*JOB, *STUDY)) == [
    "--job-name=slm",
    "--nodes=2",
    "--ntasks-per-node=1",
    "--gpus-per-node=8",
    "--exclusive",
    "--time=12:00:00",
    "--signal=B:USR1@120",
    "--requeue",
    "--open-mode=append",
    "--output=/shared/runs/slm/logs/%x-%j.txt",
  ]
  others = ("--partition=a", "--account=b", "--qos=c", "--constraint=d&e", "--mem=0")
  assert directives(job(*JOB, *STUDY, *others))[10:] == list(others)
  single = ("--name=slm", "--nodes=1", "--gpus=1", "--time=30", *STUDY)
  assert directives(job(*single, "--array=8"))[10:] == ["--array=0-7"]


def test_the_folder_of_logs_is_made_before():
  made = shell.dry_run("slurm.sh", "submit", *JOB, *STUDY).splitlines()[0]
  assert made == "mkdir -p /shared/runs/slm/logs"


def test_dry_run_of_the_others():
  installed = shell.dry_run("slurm.sh", "install")
  assert shlex.split(installed)[-1].endswith("/launch/setup.sh && ensure_environment cuda12")
  assert shell.dry_run("slurm.sh", "cancel", "--name=slm") == "scancel --me --name=slm\n"
  followed = shell.dry_run("slurm.sh", "logs", "--name=slm", "--workdir=/w")
  assert shell.is_bash(shlex.split(followed)[-1])
  assert "tail -n +1 -F /w/logs/slm-*.txt" in followed


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ([""], "subcommand (none) is unknown: choose one of install"),
    (["all"], "subcommand all is unknown"),
    (["submit", *JOB, "--config=configs/slm.py"], "submit needs --workdir="),
    (["submit", *JOB[1:], *STUDY], "submit needs --name="),
    (["submit", *JOB, *STUDY, "--array=2"], "give --nodes=1, or leave --array out"),
    (["submit", *JOB, *STUDY, "--gpus=some"], "--gpus=some is not a number"),
    (["submit", *JOB, *STUDY, "--nodes=0"], "--nodes=0 is not a number"),
    (["submit", *JOB, *STUDY, "--time=soon"], "--time=soon is not a time such as"),
    (["submit", *JOB, *STUDY, "--name=a b"], "--name=a b is not a name"),
    (["submit", *JOB, *STUDY, "--qos=a b"], "--qos=a b is not one word"),
    (["submit", *JOB, *STUDY, "--workdir=runs/slm"], "--workdir=runs/slm must be a whole path"),
    (["submit", *JOB, *STUDY, "--config=configs/none.py"], "configs/none.py is no file"),
    (["submit", *JOB, *STUDY, "--colour=red"], "flag --colour=red is unknown"),
    (["submit", "--name"], "flag --name is unknown or lacks its =VALUE"),
    (["logs", "--name=slm"], "logs needs --workdir="),
    (["cancel"], "cancel needs --name="),
  ],
)
def test_wrong_flags_are_one_sentence(arguments, said):
  assert said in sentence(bash(ROOT / "launch/slurm.sh", *arguments, "--dry_run"))


def test_without_sbatch_it_says_so(bin):
  line = sentence(bash(ROOT / "launch/slurm.sh", "submit", *JOB, *STUDY, path=bin))
  assert "There is no sbatch" in line


SRUN = r"""#!/bin/bash
# Starts the tasks here. As the real one, it answers SIGTERM with SIGKILL for all of them.
while [[ $1 == --* ]]; do shift; done
pids=()
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i "$@" &
  pids+=("$!")
done
echo "${pids[*]}" >"$SPOOL/tasks"
trap 'kill -KILL "${pids[@]}"' TERM
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || { one=$?; ((one < status)) || status=$one; }
done
exit "$status"
"""
SCONTROL = r"""#!/bin/bash
echo "$*" >>"$SPOOL/scontrol"
[[ $1 != show ]] || printf '%s\n' node7 node8
"""
SCANCEL = r"""#!/bin/bash
echo "$*" >>"$SPOOL/scancel"
kill -TERM $(<"$SPOOL/tasks")
"""
# The study: END is how it ends when it is told to, at once if NOW.
PYTHON = r"""#!/bin/bash
trap 'exit "$END"' TERM
printf '%s\n' "$*" >>"$SPOOL/asked"
[[ ! ${NOW:-} ]] || exit "$END"
for ((i = 0; i < 300; i++)); do sleep 0.02; done
"""


@pytest.fixture
def cluster(bin, tmp_path):
  """Submits in a checkout of its own; returns it, the batch script and where its commands note."""
  checkout, spool = shell.clone(tmp_path / "a clone"), tmp_path / "spool"
  spool.mkdir()
  executable(checkout / ".venv/bin/python", PYTHON)
  for name, text in dict(srun=SRUN, scontrol=SCONTROL, scancel=SCANCEL).items():
    executable(bin / name, text)
  executable(bin / "sbatch", '#!/bin/bash\ncat >"$SPOOL/job"\n')
  shell.link(bin, "sleep")

  def submit(*flags):
    arguments = ("submit", "--config=configs/slm.py", f"--workdir={spool}/w", *flags)
    result = bash(checkout / "launch/slurm.sh", *arguments, path=bin, SPOOL=str(spool))
    assert result.returncode == 0, result
    return spool / "job"

  return submit, spool


def variables(spool, bin, tasks, end, **more):
  slurm = dict(SLURM_JOB_ID="5", SLURM_JOB_NODELIST="node[7-8]", SLURM_NTASKS=str(tasks))
  return shell.environment(bin, SPOOL=str(spool), END=str(end), **slurm, **more)


def run(script, environment):
  return subprocess.run(["bash", script], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("end", [0, 2])
def test_every_process_gets_its_place_and_words_survive(cluster, bin, end):
  submit, spool = cluster
  script = submit(*JOB, "--port=9000", "--", "--only=it's *", "--config.name=$HOME")
  result = run(script, variables(spool, bin, 2, end, NOW="yes"))
  assert result.returncode == end, result
  assert f"ended with exit status {end}." in result.stdout
  assert sorted((spool / "asked").read_text().splitlines()) == [
    f"-m specialization run --config=configs/slm.py --workdir={spool}/w --only=it's *"
    f" --config.name=$HOME --coordinator=node7:9000 --processes=2 --process={i}"
    for i in range(2)
  ]
  assert "requeue" not in (spool / "scontrol").read_text()
  assert (spool / "w/logs").is_dir()


def test_one_machine_runs_alone(cluster, bin):
  submit, spool = cluster
  run(submit(*JOB, "--nodes=1"), variables(spool, bin, 1, 0, NOW="yes"))
  assert (spool / "asked").read_text() == (
    f"-m specialization run --config=configs/slm.py --workdir={spool}/w\n"
  )


def interrupt(spool, script, environment, number, count):
  """Sends the batch shell a signal when so many processes are there; returns how it ends."""
  with subprocess.Popen(["bash", script], env=environment, stdout=subprocess.PIPE) as started:
    asked = spool / "asked"
    shell.until(lambda: asked.exists() and len(asked.read_text().splitlines()) == count)
    started.send_signal(number)
    return started.wait(timeout=30)


ARRAY = dict(SLURM_ARRAY_JOB_ID="4", SLURM_ARRAY_TASK_ID="1")


@pytest.mark.parametrize(
  ("end", "more", "job", "is_requeued"),
  [
    (143, {}, "5", True),
    (143, ARRAY, "4_1", True),
    (0, {}, "5", False),
    (2, {}, "5", False),
  ],
)
def test_before_its_limit_a_job_saves_and_comes_again(cluster, bin, end, more, job, is_requeued):
  submit, spool = cluster
  script = submit(*JOB)
  environment = variables(spool, bin, 2, end, **more)
  assert interrupt(spool, script, environment, signal.SIGUSR1, 2) == end
  assert (spool / "scancel").read_text() == f"--signal=TERM {job}\n"
  asked = (spool / "scontrol").read_text().splitlines()[1:]
  assert asked == ([f"requeue {job}"] if is_requeued else [])


def test_a_canceled_job_does_not_come_again(cluster, bin):
  submit, spool = cluster
  script = submit(*JOB, "--nodes=1")
  environment = variables(spool, bin, 1, 143)
  assert interrupt(spool, script, environment, signal.SIGTERM, 1) == -signal.SIGTERM
  assert "requeue" not in (spool / "scontrol").read_text()


def test_submit_needs_what_install_makes(bin, tmp_path):
  checkout = shell.clone(tmp_path / "clone")
  executable(bin / "sbatch", "#!/bin/sh\n")
  line = sentence(bash(checkout / "launch/slurm.sh", "submit", *JOB, *STUDY, path=bin))
  assert "make it with bash launch/slurm.sh install" in line


SQUEUE = r"""#!/bin/bash
# There is a job as often as $LEFT has lines; with the last it has written its log.
read -r line <"$LEFT" || exit 0
sed -i 1d "$LEFT"
[[ $line != log ]] || echo "it runs" >"$WORK/logs/slm-5.txt"
echo job
"""


@pytest.mark.parametrize(("left", "said"), [("wait\nlog\nwait\n", "it runs\n"), ("wait\n", "")])
def test_logs_until_the_job_ends(bin, tmp_path, left, said):
  (tmp_path / "logs").mkdir()
  (tmp_path / "left").write_text(left)
  executable(bin / "squeue", SQUEUE)
  executable(bin / "sleep", shell.NAP)
  for name in ("sbatch", "scancel"):
    executable(bin / name, "#!/bin/sh\n")
  shell.link(bin, "grep", "sed")
  flags = ("--name=slm", f"--workdir={tmp_path}")
  where = dict(LEFT=str(tmp_path / "left"), WORK=str(tmp_path))
  result = bash(ROOT / "launch/slurm.sh", "logs", *flags, path=bin, **where)
  assert result.stdout.endswith(said)
  assert result.returncode == (0 if said else 1), result
  assert ("There is no such job" in result.stderr) == (not said)

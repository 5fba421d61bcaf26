"""launch/tpu_vm.sh: what it would do, and what a machine in the place of the VM then does."""

import shlex

import pytest

import shell
from shell import ROOT, bash, executable, sentence

VM = ("--name=vm", "--zone=here-a")
CREATE = ("--type=v5litepod-8", "--version=v2-alpha-tpuv5-lite")
POD = ("--type=v5litepod-16", "--version=v2-alpha-tpuv5-lite")
RUN = ("--config=configs/slm.py:smoke", "--workdir=runs/slm")
SSH = "gcloud compute tpus tpu-vm ssh vm --worker={} '--command="


def commands(subcommand, *flags, path=None):
  return shell.commands(shell.dry_run("tpu_vm.sh", subcommand, *flags, path=path))


def asked_by_ssh(command):
  """Returns the command line that a worker gets."""
  (given,) = (word for word in shlex.split(command) if word.startswith("--command="))
  assert shell.is_bash(given.removeprefix("--command="))
  return given.removeprefix("--command=")


def test_dry_run_of_create(bin):
  (asked,) = commands("create", *VM, *CREATE, "--project=mine", "--spot", path=bin)
  assert asked == (
    "gcloud compute tpus tpu-vm create vm --accelerator-type=v5litepod-8"
    " --version=v2-alpha-tpuv5-lite --spot --zone=here-a --project=mine"
  )


def test_dry_run_of_create_in_the_queue():
  asked, waited = commands("create", *VM, *CREATE, "--queued", "--within=6h", "--spot")
  assert asked == (
    "gcloud compute tpus queued-resources create vm --node-id=vm --accelerator-type=v5litepod-8"
    " --runtime-version=v2-alpha-tpuv5-lite --spot --valid-until-duration=6h --zone=here-a"
  )
  assert waited.startswith("bash -c 'until ")
  assert "gcloud compute tpus queued-resources describe vm --zone=here-a" in waited


def test_dry_run_of_mount():
  (asked,) = commands("mount", *VM, "--share=10.0.0.2:/runs")
  assert asked.startswith(SSH.format("all"))
  assert "sudo mount -t nfs -o rw,hard 10.0.0.2:/runs /runs\n" in asked_by_ssh(asked)


def test_dry_run_of_install():
  packed, copied, installed = commands("install", *VM)
  assert packed.startswith("tar -czf ")
  assert copied.startswith("gcloud compute tpus tpu-vm scp ")
  assert copied.endswith(" vm:specialization.tar.gz --worker=all --zone=here-a")
  assert installed.startswith(SSH.format("all"))
  assert "ensure_environment tpu" in asked_by_ssh(installed)


def test_dry_run_of_run_and_what_follows():
  (ran,) = commands("run", *VM, *CREATE, *RUN, "--", "--config.seed=1")
  assert ran.startswith(SSH.format("all"))
  assert (
    ".venv/bin/python -m specialization run --config=configs/slm.py:smoke --workdir=runs/slm"
    " --coordinator=auto --config.seed=1;"
  ) in asked_by_ssh(ran)
  (followed,) = commands("logs", *VM)
  assert followed.startswith(SSH.format("0"))
  assert "tail" in asked_by_ssh(followed)
  (ended,) = commands("cancel", *VM)
  assert ended.startswith(SSH.format("all"))
  assert "pkill -TERM" in asked_by_ssh(ended)
  made, fetched = commands("fetch", *VM, "--workdir=runs/slm")
  assert made == shlex.join(["mkdir", "-p", f"{ROOT}/runs/vm"])
  assert "vm:specialization/runs/slm/report vm:specialization/runs/slm/results" in fetched
  _, fetched = commands("fetch", *VM, "--workdir=/runs/slm")
  assert "vm:/runs/slm/report vm:/runs/slm/results" in fetched


def test_dry_run_of_delete():
  assert commands("delete", *VM) == ["gcloud compute tpus tpu-vm delete vm --quiet --zone=here-a"]
  assert commands("delete", *VM, "--queued") == [
    "gcloud compute tpus queued-resources delete vm --force --quiet --zone=here-a"
  ]


@pytest.mark.parametrize("share", [(), ("--share=10.0.0.2:/runs",)])
def test_dry_run_of_all_is_each_in_turn(share):
  study = ("--config=configs/slm.py:smoke", "--workdir=/runs/slm")
  parts = ["create", *(["mount"] if share else []), "install", "run", "logs", "fetch", "delete"]
  expected = []
  for subcommand in parts:
    part = commands(subcommand, *VM, *POD, *study, *share)
    assert part
    expected += part
  assert commands("all", *VM, *POD, *study, *share) == expected
  assert len(expected) == 9 + len(share)


@pytest.mark.parametrize("type", ["v5litepod-16", "v6e-16", "v5p-16", "v4-32"])
def test_several_hosts_need_a_folder_that_they_share(type):
  flags = ("run", "--dry_run", *VM, f"--type={type}", "--config=configs/slm.py")
  line = sentence(bash(ROOT / "launch/tpu_vm.sh", *flags, "--workdir=runs/slm"))
  assert f"another folder on each host of a {type}" in line
  assert bash(ROOT / "launch/tpu_vm.sh", *flags, "--workdir=/runs/slm").returncode == 0


@pytest.mark.parametrize("type", ["v5litepod-1", "v5litepod-8", "v6e-8", "v5p-8"])
def test_one_host_may_have_a_folder_of_its_own(type):
  assert commands("run", *VM, f"--type={type}", *RUN)


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ([""], "subcommand (none) is unknown: choose one of create"),
    (["make"], "subcommand make is unknown"),
    (["create", *VM, "--type=v5litepod-8"], "create needs --version="),
    (["create", *VM, "--type=v5e", "--version=v"], "--type=v5e is not a type with its size"),
    (["create", *VM, *CREATE, "--within=6h"], "--within=6h is for the queue"),
    (["mount", *VM], "mount needs --share="),
    (["mount", *VM, "--share=/runs"], "--share=/runs is not HOST:/FOLDER"),
    (["install", "--zone=z"], "install needs --name="),
    (["run", *VM, *CREATE, "--config=configs/slm.py"], "run needs --workdir="),
    (["run", *VM, *RUN], "run needs --type="),
    (["all", *VM, *RUN, "--version=v"], "all needs --type="),
    (["all", *VM, *CREATE, "--config=configs/slm.py"], "all needs --workdir="),
    (["all", *VM, *CREATE, *RUN, "--share=h:/f"], "--workdir=runs/slm is not on the share"),
    (["delete", "--name=vm"], "delete needs --zone="),
    (["logs", *VM, "--colour=red"], "flag --colour=red is unknown"),
    (["logs", *VM, "--spot=yes"], "flag --spot=yes is unknown"),
    (["logs", "--name"], "flag --name is unknown or lacks its =VALUE"),
    (["run", *VM, "--config=configs/none.py", "--workdir=w"], "configs/none.py is no file"),
    (["run", *VM, "--config=configs/slm.py", "--workdir=gs://b"], "gs://b is a bucket"),
  ],
)
def test_wrong_flags_are_one_sentence(arguments, said):
  assert said in sentence(bash(ROOT / "launch/tpu_vm.sh", *arguments, "--dry_run"))


def test_without_gcloud_it_says_so(bin):
  assert "There is no gcloud" in sentence(bash(ROOT / "launch/tpu_vm.sh", "delete", *VM, path=bin))


GCLOUD = r"""#!/bin/bash
# Stands for the VM: its home is $REMOTE; what is asked of it is done there.
verb=$4
echo "$verb" >>"$REMOTE/verbs"
for word in "${@:5}"; do
  case $word in
    --command=*) command=${word#--command=} ;;
    *:specialization.tar.gz) upload=yes ;;
    *.tar.gz) archive=$word ;;
  esac
done
[[ ${upload:-} ]] && cat "$archive" >"$REMOTE/specialization.tar.gz"
[[ ${command:-} ]] || exit 0
cd "$REMOTE" && HOME=$REMOTE exec bash -c "$command"
"""

WORKER = r"""#!/bin/bash
# The environment's interpreter on the worker.
printf '%s\n' "$*" >>"$REMOTE/asked"
if [[ $* == "-m specialization"* ]]; then
  echo "it runs"
  [[ $STATUS != forever ]] || exec sleep 60
  exit "$STATUS"
fi
"""


@pytest.fixture
def remote(bin, tmp_path):
  """Runs a subcommand with a folder in the VM's place, which it returns too."""
  folder = tmp_path / "remote"
  executable(bin / "gcloud", GCLOUD)
  shell.link(bin, "nohup", "pkill", "sleep")
  checkout = shell.clone(tmp_path / "a clone")
  (checkout / "specialization/phases").mkdir(parents=True)
  for name in ("pyproject.toml", "setup.py", "specialization/phases/__init__.py"):
    (checkout / name).touch()
  executable(folder / "specialization/.venv/bin/python", WORKER)
  (folder / "specialization/.venv/pyvenv.cfg").touch()

  def start(subcommand, *flags, status=0):
    study = ("--config=configs/slm.py", f"--workdir={folder}/w")
    where = dict(REMOTE=str(folder), STATUS=str(status), TMPDIR=str(tmp_path))
    arguments = (subcommand, *VM, *POD, *study, *flags)
    return bash(checkout / "launch/tpu_vm.sh", *arguments, path=bin, **where)

  return start, folder


@pytest.mark.parametrize("status", [0, 3])
def test_all_on_a_machine_that_stands_for_the_vm(remote, status):
  start, folder = remote
  result = start("all", "--", "--only=it's *", status=status)
  assert "it runs" in result.stdout, result
  asked = (folder / "asked").read_text().splitlines()
  assert [line for line in asked if line.endswith("[tpu]")]
  assert asked[-1] == (
    f"-m specialization run --config=configs/slm.py --workdir={folder}/w --coordinator=auto"
    " --only=it's *"
  )
  assert (folder / "specialization/specialization/phases/__init__.py").exists()
  verbs = (folder / "verbs").read_text().split()
  assert result.returncode == status, result
  if status:
    assert "ended with exit status 3" in result.stderr
    assert "bash launch/tpu_vm.sh delete --name=vm --zone=here-a" in result.stderr
    assert verbs == ["create", "scp", "ssh", "ssh", "ssh"]
  else:
    assert verbs == ["create", "scp", "ssh", "ssh", "ssh", "scp", "delete"]


def test_a_second_run_is_refused_until_the_first_is_canceled(remote):
  start, folder = remote
  assert start("run", status="forever").returncode == 0
  second = start("run")
  assert second.returncode == 2
  assert second.stderr == (
    "error: A run is going on here: follow it with logs, or end it with cancel.\n"
  )
  shell.until((folder / "asked").exists)  # Else there is no process to end yet.
  assert start("cancel").returncode == 0
  assert start("logs").returncode == 143
  assert start("run").returncode == 0
  assert start("logs").returncode == 0


QUEUE = r"""#!/bin/bash
# A queue whose next state is the first line of $STATES.
if [[ $4 == describe ]]; then
  read -r state rest <"$STATES"
  echo "$rest" >"$STATES"
  echo "$state"
fi
"""


@pytest.mark.parametrize(
  ("states", "status", "said"),
  [
    ("WAITING_FOR_RESOURCES PROVISIONING ACTIVE", 0, ""),
    ("PROVISIONING FAILED ACTIVE", 1, "error: The request is FAILED: delete it"),
    ("SUSPENDING ACTIVE", 1, "error: The request is SUSPENDING"),
  ],
)
def test_the_queue_is_waited_for(bin, tmp_path, states, status, said):
  executable(bin / "gcloud", QUEUE)
  executable(bin / "sleep", "#!/bin/sh\n")
  (tmp_path / "states").write_text(states)
  flags = ("create", *VM, *CREATE, "--queued")
  result = bash(ROOT / "launch/tpu_vm.sh", *flags, path=bin, STATES=str(tmp_path / "states"))
  assert result.returncode == status, result
  assert said in result.stderr

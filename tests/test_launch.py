"""The scripts of launch/: what they say, and that what they would run does work."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import specialization

ROOT = Path(specialization.__file__).parents[1]
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci/run"]
VM = ("--name=vm", "--zone=here-a")
CREATE = ("--type=v5litepod-8", "--version=v2-alpha-tpuv5-lite")
RUN = ("--config=configs/slm.py:smoke", "--workdir=runs/slm")
TOOLS = ("bash", "cat", "cksum", "dirname", "env", "gzip", "mkdir", "rm", "sh", "tail", "tar")


def executable(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


@pytest.fixture
def bin(tmp_path):
  """A folder with the commands that scripts need, to be all that there is on the PATH."""
  folder = tmp_path / "bin"
  folder.mkdir()
  for tool in TOOLS:
    (folder / tool).symlink_to(shutil.which(tool))
  return folder


def bash(script, *arguments, path=None, **environment):
  return subprocess.run(
    ["bash", str(script), *arguments],
    env={**os.environ, **environment} | ({"PATH": str(path)} if path else {}),
    cwd="/",
    capture_output=True,
    text=True,
  )


def sentence(result):
  """Returns the one line with which a script refused."""
  assert result.returncode == 2, result
  assert not result.stdout
  (line,) = result.stderr.splitlines()
  assert line.startswith("error: ")
  assert line.endswith(".")
  return line


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(script):
  checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
  assert checked.returncode == 0, checked.stderr
  assert os.access(script, os.X_OK) or script.name == "setup.sh"


# ------------------------------------------------------------------------------ setup


@pytest.fixture
def clone(tmp_path):
  """A checkout with nothing installed."""
  folder = tmp_path / "a clone"
  (folder / "launch").mkdir(parents=True)
  for name in ("setup.sh", "quickstart.sh", "test.sh"):
    shutil.copy(ROOT / "launch" / name, folder / "launch")
  (folder / "setup.py").write_text("first")
  return folder


PYTHON = r"""#!/bin/sh
# An interpreter of version $VERSION; `-m venv FOLDER` makes another one there.
here=$(dirname "$0")
echo "$@" >>"$LOG"
case "$*" in
  *version_info*)
    version=$(echo "${VERSION:-3.11}" | tr . ,)
    exec "$REAL" -c "import sys; sys.version_info = ($version); exec('$2')" ;;
  *"import pip"*) [ -e "$here/../pip" ] ;;
  *ensurepip*) : >"$here/../pip" ;;
  *--version) echo "Python ${VERSION:-3.11}" ;;
  "-m venv"*)
    for folder in "$@"; do :; done
    mkdir -p "$folder/bin" && : >"$folder/pyvenv.cfg" && : >"$folder/pip"
    cat "$0" >"$folder/bin/python" && chmod 755 "$folder/bin/python" ;;
  "-m pip"*) [ ! -e "$here/../broken" ] ;;
esac
"""


@pytest.fixture
def quickstart(clone, bin, tmp_path):
  """Runs quickstart.sh with a fake Python; returns the result and what Python was asked to do."""
  for tool in ("chmod", "tr"):
    (bin / tool).symlink_to(shutil.which(tool))
  executable(bin / "python3", PYTHON)

  def start(*arguments, **environment):
    log = tmp_path / "log"
    log.write_text("")
    script = clone / "launch/quickstart.sh"
    result = bash(script, *arguments, path=bin, LOG=str(log), REAL=sys.executable, **environment)
    asked = [line for line in log.read_text().splitlines() if line.startswith("-m")]
    return result, asked

  return start


def test_quickstart_refuses_an_old_python(quickstart, clone):
  result, asked = quickstart(VERSION="3.10")
  line = sentence(result)
  assert "needs Python 3.11 or newer" in line
  assert "here is Python 3.10" in line
  assert not asked
  assert not (clone / ".venv").exists()


def test_quickstart_refuses_without_python(clone, bin):
  line = sentence(bash(clone / "launch/quickstart.sh", path=bin, PYTHON=""))
  assert "here is no python3" in line


def test_quickstart_finds_a_newer_python(quickstart, bin):
  executable(bin / "python3.12", PYTHON.replace("${VERSION:-3.11}", "3.12"))
  result, asked = quickstart(VERSION="3.10")
  assert "with Python 3.12" in result.stdout
  assert asked[0].startswith("-m venv")


def test_quickstart_installs_once_and_passes_its_arguments_on(quickstart, clone):
  result, asked = quickstart("--config.seed=1")
  assert result.returncode == 0, result.stderr
  made, installed, ran = asked
  assert made == f"-m venv --clear {clone}/.venv"
  assert installed.endswith(f"--editable {clone}")
  assert ran == (
    "-m specialization run --config=configs/quickstart.py --workdir=runs/quickstart --config.seed=1"
  )
  assert quickstart(WORKDIR="/w")[1] == [
    "-m specialization run --config=configs/quickstart.py --workdir=/w"
  ]


def test_a_relative_workdir_begins_where_the_user_is(quickstart):
  _, asked = quickstart(WORKDIR="tmp/w")
  assert asked[-1].endswith(" --workdir=//tmp/w")  # started in /


def test_quickstart_installs_again_after_a_change_or_a_failure(quickstart, clone):
  quickstart()
  (clone / "setup.py").write_text("second")
  (clone / ".venv/broken").touch()
  result, asked = quickstart()
  assert result.returncode == 2
  assert "pip could not install" in result.stderr
  assert [line[:6] for line in asked] == ["-m pip"]
  (clone / ".venv/broken").unlink()
  result, asked = quickstart()
  assert result.returncode == 0
  assert [line[:6] for line in asked] == ["-m pip", "-m spe"]


@pytest.mark.parametrize(("lost", "cure"), [("pyvenv.cfg", "-m venv"), ("pip", "-m ensurepip")])
def test_a_half_made_environment_is_mended(quickstart, clone, lost, cure):
  quickstart()
  (clone / ".venv" / lost).unlink()
  result, asked = quickstart()
  assert result.returncode == 0
  assert asked[0].startswith(cure)


# ------------------------------------------------------------------------------ TPU VM


def tpu(subcommand, *flags, path=None, **environment):
  return bash(ROOT / "launch/tpu_vm.sh", subcommand, *flags, path=path, **environment)


def commands(subcommand, *flags, path=None):
  """Returns the commands of a dry run, each quoted in one way."""
  result = tpu(subcommand, "--dry_run", *flags, path=path)
  assert result.returncode == 0, result.stderr
  found = []
  for word in shlex.split(result.stdout):
    if word in ("gcloud", "tar", "bash", "mkdir"):
      found.append([])
    found[-1].append(word)
  return [shlex.join(words) for words in found]


def test_dry_run_of_create(bin):
  (asked,) = commands("create", *VM, *CREATE, "--project=mine", "--spot", path=bin)
  assert asked == (
    "gcloud compute tpus tpu-vm create vm --accelerator-type=v5litepod-8"
    " --version=v2-alpha-tpuv5-lite --spot --zone=here-a --project=mine"
  )


def test_dry_run_of_create_in_the_queue():
  asked, waited = commands("create", *VM, *CREATE, "--queued")
  assert asked == (
    "gcloud compute tpus queued-resources create vm --node-id=vm --accelerator-type=v5litepod-8"
    " --runtime-version=v2-alpha-tpuv5-lite --zone=here-a"
  )
  assert waited.startswith("bash -c 'until ")
  assert "gcloud compute tpus queued-resources describe vm --zone=here-a" in waited


def test_dry_run_of_install():
  packed, copied, installed = commands("install", *VM)
  assert packed.startswith("tar -czf ")
  assert copied.startswith("gcloud compute tpus tpu-vm scp ")
  assert copied.endswith(" vm:specialization.tar.gz --worker=all --zone=here-a")
  assert installed.startswith("gcloud compute tpus tpu-vm ssh vm --worker=all '--command=")
  assert "ensure_environment tpu" in installed


def test_dry_run_of_run_and_what_follows():
  (ran,) = commands("run", *VM, *RUN, "--", "--config.seed=1")
  assert ran.startswith("gcloud compute tpus tpu-vm ssh vm --worker=all '--command=")
  assert (
    ".venv/bin/python -m specialization run --config=configs/slm.py:smoke --workdir=runs/slm"
    " --config.seed=1;"
  ) in ran
  (followed,) = commands("logs", *VM)
  assert followed.startswith("gcloud compute tpus tpu-vm ssh vm --worker=0 '--command=")
  made, fetched = commands("fetch", *VM, "--workdir=runs/slm")
  assert made == shlex.join(["mkdir", "-p", f"{ROOT}/runs/vm"])
  assert "vm:specialization/runs/slm/report vm:specialization/runs/slm/results" in fetched


def test_dry_run_of_delete():
  assert commands("delete", *VM) == ["gcloud compute tpus tpu-vm delete vm --quiet --zone=here-a"]
  assert commands("delete", *VM, "--queued") == [
    "gcloud compute tpus queued-resources delete vm --force --quiet --zone=here-a"
  ]


def test_dry_run_of_all_is_each_in_turn():
  expected = []
  for subcommand, flags in (
    ("create", CREATE),
    ("install", ()),
    ("run", RUN),
    ("logs", ()),
    ("fetch", ("--workdir=runs/slm",)),
    ("delete", ()),
  ):
    part = commands(subcommand, *VM, *flags)
    assert part
    expected += part
  assert commands("all", *VM, *CREATE, *RUN) == expected
  assert len(expected) == 9


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ([""], "subcommand (none) is unknown: choose one of create"),
    (["make"], "subcommand make is unknown"),
    (["create", *VM, "--type=v5litepod-8"], "create needs --version="),
    (["install", "--zone=z"], "install needs --name="),
    (["run", *VM, "--config=configs/slm.py"], "run needs --workdir="),
    (["all", *VM, *RUN, "--version=v"], "all needs --type="),
    (["all", *VM, *CREATE, "--config=configs/slm.py"], "all needs --workdir="),
    (["delete", "--name=vm"], "delete needs --zone="),
    (["logs", *VM, "--colour=red"], "flag --colour=red is unknown"),
    (["logs", "--name"], "flag --name is unknown or lacks its =VALUE"),
    (["run", *VM, "--config=configs/none.py", "--workdir=w"], "configs/none.py is no file"),
    (["run", *VM, "--config=configs/slm.py", "--workdir=gs://b"], "gs://b is a bucket"),
  ],
)
def test_wrong_flags_are_one_sentence(arguments, said):
  assert said in sentence(bash(ROOT / "launch/tpu_vm.sh", *arguments, "--dry_run"))


def test_without_gcloud_it_says_so(bin):
  assert "There is no gcloud" in sentence(tpu("delete", *VM, path=bin))


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
  exit "$STATUS"
fi
"""


@pytest.mark.parametrize("status", [0, 3])
def test_all_on_a_machine_that_stands_for_the_vm(bin, tmp_path, status):
  remote = tmp_path / "remote"
  executable(bin / "gcloud", GCLOUD)
  (bin / "nohup").symlink_to(shutil.which("nohup"))
  executable(remote / "specialization/.venv/bin/python", WORKER)
  (remote / "specialization/.venv/pyvenv.cfg").touch()
  result = tpu(
    "all",
    "--name=vm",
    "--zone=z",
    *CREATE,
    "--config=configs/slm.py",
    f"--workdir={remote}/w",
    "--",
    "--only=it's *",
    path=bin,
    REMOTE=str(remote),
    STATUS=str(status),
    TMPDIR=str(tmp_path),
  )
  assert "it runs" in result.stdout, result
  asked = (remote / "asked").read_text().splitlines()
  assert [line for line in asked if line.endswith("[tpu]")]
  assert asked[-1] == (
    f"-m specialization run --config=configs/slm.py --workdir={remote}/w --only=it's *"
  )
  assert (remote / "specialization/specialization/phases/__init__.py").exists()
  verbs = (remote / "verbs").read_text().split()
  if status:
    assert result.returncode == 2
    assert "costs until you delete it" in result.stderr
    assert verbs == ["create", "scp", "ssh", "ssh", "ssh"]
  else:
    assert result.returncode == 0, result
    assert verbs == ["create", "scp", "ssh", "ssh", "ssh", "scp", "delete"]

"""The set-up that scripts of launch/ share, and those that run everything on this machine."""

import os
import shutil
import subprocess
import sys

import pytest

from shell import ROOT, bash, executable, link, sentence

SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci/run"]
SOURCED = ("setup.sh", "flags.sh")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(script):
  checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
  assert checked.returncode == 0, checked.stderr
  assert os.access(script, os.X_OK) != (script.name in SOURCED)


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
  link(bin, "chmod", "tr")
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

"""What the tests of the scripts share."""

import pytest

import shell


@pytest.fixture
def bin(tmp_path):
  """A folder with the commands that scripts need, to be all that there is on the PATH."""
  folder = tmp_path / "bin"
  folder.mkdir()
  shell.link(folder, *shell.TOOLS)
  return folder

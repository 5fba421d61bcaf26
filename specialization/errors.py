"""What a person, not a bug, causes."""

import errno

# Of an OSError: disks that are full, mounted read-only or lost, and files where folders belong.
MENDABLE = {
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.EEXIST,
  errno.EIO,
  errno.ESTALE,
}


class Terminated(BaseException):
  """SIGTERM came, and all that was done is saved; no handler of errors is to go on after it."""


class UserError(Exception):
  """Something a person can mend; its text is one sentence: what is wrong and what to do.

  `main` prints it without a traceback (unless --debug) and exits with status 2.
  """


class Damaged(UserError):
  """What lies on disk is not what was written there; `why` says by what this is seen."""

  def __init__(self, sentence: str, why: str):
    super().__init__(sentence)
    self.why = why


def first_line(error: BaseException) -> str:
  """Returns the beginning of what an error says, to stand within a sentence."""
  said = (str(error) or type(error).__name__).partition(" [tensorstore_spec=")[0]
  return said.splitlines()[0].rstrip(".")

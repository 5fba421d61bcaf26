"""The one exception that a person, not a bug, causes."""


class UserError(Exception):
  """Something a person can mend; its text is one sentence: what is wrong and what to do.

  `main` prints it without a traceback (unless --debug) and exits with status 2.
  """

"""What `doctor` finds: one line each."""

import dataclasses

from specialization import budgets


@dataclasses.dataclass(frozen=True)
class Finding:
  """One line of the report; a problem's is a sentence that ends with its cure."""

  subject: str
  text: str
  is_problem: bool = False

  def __str__(self) -> str:
    return f"{'PROBLEM ' * self.is_problem}{self.subject}: {self.text}"


def size(number: float | int) -> str:
  """Returns a number of bytes, readable."""
  text = budgets.readable(float(number))
  return f"{text} B" if text[-1].isdigit() else f"{text[:-1]} {text[-1]}B"

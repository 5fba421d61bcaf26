"""Numbers as people read them."""

import math

from specialization.report.results import Value


def number(value: float) -> str:
  """Returns four significant digits or so: 7.123, 45.12, 161.0, 2330, inf, nan."""
  if not abs(value) < 1e5:
    return f"{value:.4g}"
  return f"{value:.{next((3 - i for i in range(3) if abs(value) < 10 ** (i + 1)), 0)}f}"


def count(value: int | float) -> str:
  """Returns a number of tokens or parameters: 800, 4.1k, 28M, 1.422B."""
  for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= limit * 0.99995:
      return f"{value / limit:.4g}{unit}"
  return f"{value:.4g}"


def scientific(value: float) -> str:
  """Returns FLOPs: 1.23e15, 0."""
  if not math.isfinite(value) or not value:
    return f"{value:g}"
  mantissa, exponent = f"{value:.2e}".split("e")
  return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def hours(value: float) -> str:
  """Returns device-hours: 0.0123, 45.1, 1230."""
  return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def percent(share: float) -> str:
  """Returns a share of the pretraining horizon: 25%."""
  return f"{100 * share:.3g}%"


def change(gain: float) -> str:
  """Returns what a gain in nats per token is in perplexity: -3.8% for one of 0.039."""
  return f"{math.expm1(-gain):+.1%}".replace("-", "−")


def deviation(spread: float | None) -> str:
  """Returns ± and two digits, nothing for no spread."""
  if spread is None:
    return ""
  return f"± {spread:{'.3f' if spread < 5e-4 else '#.2g' if spread < 9.95 else '.0f'}}"


def signed(value: float, digits: int) -> str:
  return f"{value:+.{digits}f}".replace("-", "−")


def nats(value: Value) -> str:
  """Returns a gain with its sign: +0.039 ± 0.004."""
  return f"{signed(value.mean, 3)} {deviation(value.spread)}".strip()


def plural(n: int, noun: str) -> str:
  return f"{n} {noun}{'s' * (n != 1)}"


def listing(words: list[str]) -> str:
  """Returns a, b and c."""
  return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)

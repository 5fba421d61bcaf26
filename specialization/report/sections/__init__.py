"""The sections of the report, one idea in each file; one that has nothing to show is left out."""

from specialization.report.figures import Section
from specialization.report.results import Study
from specialization.report.sections import (
  advice,
  budgets,
  claims,
  clusters,
  costs,
  distillation,
  domains,
  entropy,
  experts,
  horizons,
  importance,
  inference,
  rates,
  resources,
  summary,
  tasks,
  training,
)

_ORDER = (
  *(
    summary,
    budgets,
    claims,
    advice,
    horizons,
    domains,
    costs,
    tasks,
    inference,
    resources,
    experts,
  ),
  *(distillation, clusters, entropy, importance, rates, training),
)


def of(study: Study) -> list[Section]:
  """Returns the sections in the order to show."""
  found = (part.section(study) for part in _ORDER)
  return [section for section in found if section is not None]

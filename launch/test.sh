#!/usr/bin/env bash
# From a clean clone to passed tests: installs what they need into .venv and runs them.
#
#   bash launch/test.sh [arguments of pytest]
#
# Left out are tests/oracles (need the extra `oracles`) and `-m benchmark` (measures speed).
set -euo pipefail

# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ensure_environment test
cd "$ROOT"
# The tests make eight devices of the CPU, also where there is an accelerator.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile --ignore=tests/oracles \
  -m "not oracle and not benchmark" "$@"

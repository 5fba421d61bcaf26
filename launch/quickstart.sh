#!/usr/bin/env bash
# From a clean clone to a table: installs the project into .venv and runs the quick start.
#
#   bash launch/quickstart.sh [--config.FIELD=VALUE ...]
#
# WORKDIR is where everything goes (runs/quickstart); PYTHON the interpreter to begin with.
# Stopped at any moment, the same command goes on where it was.
set -euo pipefail

# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ensure_environment ""
case ${WORKDIR:-} in
  "" | /*) ;;
  *) WORKDIR=$PWD/$WORKDIR ;;
esac
cd "$ROOT"
exec "$VENV/bin/python" -m specialization run --config=configs/quickstart.py \
  --workdir="${WORKDIR:-runs/quickstart}" "$@"

# shellcheck shell=bash
# Set-up that the scripts of this folder share: source it, then call `ensure_environment EXTRAS`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv

fail() {
  echo "error: $*" >&2
  exit 2
}

# Prints words so that a shell reads them back.
quote() {
  local word inner="'\\''" out=()
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
      out+=("$word")
    else
      out+=("'${word//\'/$inner}'")
    fi
  done
  echo "${out[*]}"
}

is_recent() {
  "$@" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints the name of a Python of at least 3.11.
find_python() {
  local candidate found
  for candidate in "${PYTHON:-python3}" python3 python3.13 python3.12 python3.11; do
    if is_recent "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  found=$(python3 --version 2>/dev/null) || found="no python3"
  fail "The project needs Python 3.11 or newer, but here is $found: install one, or name it with" \
    "PYTHON=/path/to/python3."
}

# Without pyvenv.cfg the interpreter of a half-made environment would install into the system.
has_python() {
  [[ -f $VENV/pyvenv.cfg ]] && is_recent "$VENV/bin/python"
}

# Makes or mends .venv and installs the project there with extras such as "test" or "dev,oracles".
ensure_environment() {
  local extras=$1 python stamp wanted
  if ! has_python; then
    python=$(find_python) || exit
    echo "Making $VENV with $("$python" --version)."
    "$python" -m venv --clear "$VENV" ||
      fail "$python could not make $VENV: install what it asks for above (Debian: python3-venv)."
  elif ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
    "$VENV/bin/python" -m ensurepip || fail "$VENV has no pip: delete that folder and start again."
  fi
  # A changed setup.py and a moved folder both need another installation.
  wanted="$(cksum <"$ROOT/setup.py") $ROOT"
  stamp=$VENV/installed.$extras
  if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    echo "Installing the project into $VENV (minutes the first time)."
    "$VENV/bin/python" -m pip install --disable-pip-version-check \
      --editable "$ROOT${extras:+[$extras]}" || fail "pip could not install the project (see above)."
    echo "$wanted" >"$stamp"
  fi
}

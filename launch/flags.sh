# shellcheck shell=bash
# Flags and dry runs, for the scripts of this folder that start a study elsewhere: source it.

# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

SCRIPT=launch/${0##*/}
dry_run=no subcommand="" arguments=()

# Takes the first word of the command line as the subcommand, which has to be in a list.
choose() {
  subcommand=${2:-}
  [[ -n $subcommand && " $1 " == *" $subcommand "* ]] ||
    fail "The subcommand ${subcommand:-(none)} is unknown: choose one of $1."
}

# Sets a variable for each flag, --NAME=VALUE or --SWITCH (then "yes"); `arguments` are those after --.
read_flags() {
  local named=" $1 " switches=" $2 " flag
  shift 2
  while (($#)); do
    flag=${1%%=*} flag=${flag#--}
    if [[ $1 == -- ]]; then
      shift
      # shellcheck disable=SC2034 # The scripts that source this use them.
      arguments=("$@")
      return
    elif [[ $1 == --*=* && $named == *" $flag "* ]]; then
      printf -v "$flag" %s "${1#*=}"
    elif [[ $1 == "--$flag" && $switches == *" $flag "* ]]; then
      printf -v "$flag" yes
    else
      fail "The flag $1 is unknown or lacks its =VALUE: see the top of $SCRIPT."
    fi
    shift
  done
}

need() {
  local flag
  for flag in "$@"; do
    [[ -n ${!flag} ]] || fail "$subcommand needs --$flag=... (see the top of $SCRIPT)."
  done
}

# Whether flags that are given have the right form: match PATTERN "what they are to be" FLAG ...
match() {
  local pattern=$1 form=$2 flag
  shift 2
  for flag in "$@"; do
    [[ -z ${!flag} || ${!flag} =~ ^($pattern)$ ]] || fail "--$flag=${!flag} is not $form."
  done
}

is_config() {
  [[ -z $1 || -f $ROOT/${1%%:*} ]] ||
    fail "--config=$1 is no file of this checkout: give one such as configs/slm.py."
}

# Prints a command, and runs it unless this is a dry run.
step() {
  quote "$@"
  if [[ $dry_run == no ]]; then
    "$@"
  fi
}

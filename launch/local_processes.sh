#!/usr/bin/env bash
# Runs one study in several processes on this machine, as they would run on several machines. Guide:
# docs/launch/local_processes.md.
#
#   bash launch/local_processes.sh --processes=2 --devices=4 -- run --config=configs/quickstart.py \
#     --workdir=runs/two
#
# Flags:
#   --processes  how many
#   --devices    of the CPU that each makes believe it has; 0 (the default): what is there, of which
#                every process sees all, so that on accelerators it needs one that it may use alone
#   --port       on which they meet; the default is 8476
#   --dry_run    print every command and run none
#   -- ...       arguments of `python -m specialization`
#
# What the first one says is shown, and what all say lies in WORKDIR/logs. SIGTERM or Ctrl-C goes to
# all of them: they save, and the same command goes on.
set -euo pipefail

# shellcheck source=launch/flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/flags.sh"

processes="" devices=0 port=8476
read_flags "processes devices port" dry_run "$@"
match '[1-9][0-9]*' "a number" processes port
match '[0-9]+' "a number" devices
[[ -n $processes ]] || fail "How many processes? Give a number, for example --processes=2."
((${#arguments[@]})) || fail "What is to run? Give it after --, for example -- run --config=... ."
[[ $dry_run == yes || -x $VENV/bin/python ]] ||
  fail "There is no $VENV: bash launch/quickstart.sh makes it."
workdir=runs previous=""
for argument in "${arguments[@]}"; do
  if [[ $argument == --workdir=* ]]; then
    workdir=${argument#--workdir=}
  elif [[ $previous == --workdir ]]; then
    workdir=$argument
  fi
  previous=$argument
done

variables=(PYTHONUNBUFFERED=1)
((devices == 0)) || variables+=(JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices")
command=(env "${variables[@]}" "$VENV/bin/python" -m specialization "${arguments[@]}")
step mkdir -p "$workdir/logs"
pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = processes - 1; i >= 0; i--)); do
  each=("${command[@]}" --coordinator="localhost:$port" --processes="$processes" --process="$i")
  if [[ $dry_run == yes ]]; then
    echo "$(quote "${each[@]}") >$(quote "$workdir/logs/process-$i.txt") 2>&1 &"
  else
    : >"$workdir/logs/process-$i.txt" # It is read below, perhaps before it is written.
    "${each[@]}" >>"$workdir/logs/process-$i.txt" 2>&1 &
    pids+=("$!")
  fi
done
[[ $dry_run == no ]] || exit 0
tail --pid="${pids[-1]}" -n +1 -f "$workdir/logs/process-0.txt" &
shown=$! status=0
for pid in "${pids[@]}"; do
  one=0
  wait "$pid" || one=$?
  while kill -0 "$pid" 2>/dev/null; do # A trapped signal ends a `wait`, and not what it waits for.
    one=0
    wait "$pid" || one=$?
  done
  ((status)) || status=$one
done
wait "$shown" || true
exit "$status"

#!/usr/bin/env bash
# Runs a study on a Cloud TPU VM.
#
#   bash launch/tpu_vm.sh all --name=slm --zone=us-west4-a --type=v5litepod-8 \
#     --version=v2-alpha-tpuv5-lite --config=configs/slm.py --workdir=runs/slm --dry_run
#
# Subcommands: create | install (this checkout, on all workers) | run (in the background) |
# logs (until the run ends) | fetch (report and results, to runs/NAME) | delete | all (in this order;
# if the run fails, the VM is left there to look at: it costs until you `delete` it).
#
# Flags:
#   --name --zone --project  of the VM; --project is gcloud's own default if it is not given
#   --type --version         accelerator and runtime: v5litepod-8 and v2-alpha-tpuv5-lite, v5p-8 and
#                            v2-alpha-tpuv5, v6e-8 and v2-alpha-tpuv6e, ...
#   --spot                   cheaper, and may be taken away at any moment
#   --queued                 wait in the queue for capacity (give it to `delete` too)
#   --config --workdir       of the study, as for `python -m specialization run`
#   --dry_run                print every command and run none; gcloud is not needed
#   -- ...                   further arguments for `run`, such as --config.seed=1
#
# The workdir is a folder on the workers; a relative one begins in the installed checkout. gs://
# itself is not supported, since everything but checkpoints goes through ordinary file calls. The
# disk of a worker is lost with the VM, so for --spot give a folder of a shared file system that is
# mounted there (Filestore or another NFS; a bucket through gcsfuse only with a hierarchical
# namespace, because artifacts appear by renaming a folder): a run that was taken away then goes on
# where it was, after create, install and run. A slice with several hosts (v5litepod-16 and above)
# needs such a folder at one path on every worker, and a package that joins their processes
# (jax.distributed), which this one does not do yet: choose a type with one host.
set -euo pipefail

# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

SUBCOMMANDS="create install run logs fetch delete all"
HERE=specialization # the folder on the workers, in their home

step() {
  quote "$@"
  if [[ $dry_run == no ]]; then
    "$@"
  fi
}

need() {
  local flag
  for flag in "$@"; do
    [[ -n ${!flag} ]] || fail "$subcommand needs --$flag=... (see the top of launch/tpu_vm.sh)."
  done
}

vm() {
  local verb=$1
  shift
  step gcloud compute tpus tpu-vm "$verb" "$@" "${where[@]}"
}

create() {
  need name zone type version
  local options=() queue=(gcloud compute tpus queued-resources)
  [[ $spot == no ]] || options+=(--spot)
  if [[ $queued == no ]]; then
    vm create "$name" --accelerator-type="$type" --version="$version" ${options[@]+"${options[@]}"}
    return
  fi
  step "${queue[@]}" create "$name" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$version" ${options[@]+"${options[@]}"} "${where[@]}"
  step bash -c "until state=\$($(quote "${queue[@]}" describe "$name" "${where[@]}" \
    --format='value(state.state)')) && [ \"\$state\" = ACTIVE ]; do
  echo \"The request is \$state.\"
  case \$state in FAILED | SUSPENDED | '') exit 1 ;; esac
  sleep 30
done"
}

install() {
  need name zone
  local archive=${TMPDIR:-/tmp}/specialization-$name.tar.gz
  step tar -czf "$archive" -C "$ROOT" --exclude=__pycache__ \
    configs launch pyproject.toml setup.py specialization
  vm scp "$archive" "$name:$HERE.tar.gz" --worker=all
  # Some runtimes come with an older Python than the project needs; then uv brings one.
  vm ssh "$name" --worker=all --command="set -e
mkdir -p $HERE && tar -xzf $HERE.tar.gz -C $HERE && cd $HERE
if [ ! -e .venv ] && ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  python3 -m pip install --user uv && python3 -m uv venv --seed --python=3.11 .venv
fi
bash -c 'source launch/setup.sh && ensure_environment tpu'"
}

run() {
  need name zone config workdir
  local command
  command=$(quote .venv/bin/python -m specialization run --config="$config" --workdir="$workdir" \
    ${arguments[@]+"${arguments[@]}"})
  # The job outlives this connection, and leaves its exit status behind.
  vm ssh "$name" --worker=all --command="cd $HERE && rm -f run.status && {
  PYTHONUNBUFFERED=1 nohup bash -c $(quote "$command; echo \$? >run.status") >run.log 2>&1 </dev/null &
  echo \$! >run.pid
}"
}

logs() {
  need name zone
  vm ssh "$name" --worker=0 \
    --command="cd $HERE && tail --pid=\$(cat run.pid) -n +1 -f run.log; exit \$(cat run.status)"
}

fetch() {
  need name zone workdir
  local from=$workdir
  [[ $workdir == /* ]] || from=$HERE/$workdir
  step mkdir -p "$ROOT/runs/$name"
  vm scp --recurse "$name:$from/report" "$name:$from/results" "$ROOT/runs/$name" --worker=0
}

delete() {
  need name zone
  if [[ $queued == no ]]; then
    vm delete "$name" --quiet
  else
    step gcloud compute tpus queued-resources delete "$name" --force --quiet "${where[@]}"
  fi
}

all() {
  need name zone type version config workdir
  create
  install
  run
  logs || fail "The run failed or was taken away; the VM is still there and costs until you delete it."
  fetch
  delete
}

subcommand=${1:-}
[[ -n $subcommand && " $SUBCOMMANDS " == *" $subcommand "* ]] ||
  fail "The subcommand ${subcommand:-(none)} is unknown: choose one of $SUBCOMMANDS."
shift
name="" zone="" project="" type="" version="" config="" workdir=""
spot=no queued=no dry_run=no arguments=()
while (($#)); do
  case $1 in
    --spot | --queued | --dry_run) printf -v "${1#--}" yes ;;
    --name=* | --zone=* | --project=* | --type=* | --version=* | --config=* | --workdir=*)
      flag=${1%%=*}
      printf -v "${flag#--}" %s "${1#*=}"
      ;;
    --)
      shift
      arguments=("$@")
      break
      ;;
    *) fail "The flag $1 is unknown or lacks its =VALUE: see the top of launch/tpu_vm.sh." ;;
  esac
  shift
done
case $workdir in
  gs://*) fail "--workdir=$workdir is a bucket: give a folder, such as one where it is mounted." ;;
esac
[[ -z $config || -f $ROOT/${config%%:*} ]] ||
  fail "--config=$config is no file of this checkout: give one such as configs/slm.py."
[[ $dry_run == yes ]] || command -v gcloud >/dev/null ||
  fail "There is no gcloud: install the Google Cloud CLI, or look with --dry_run."
where=(--zone="$zone")
[[ -z $project ]] || where+=(--project="$project")
"$subcommand"

#!/usr/bin/env bash
# Runs a study on a Cloud TPU VM, or on all hosts of a pod slice. Guide: docs/launch/tpu_vm.md.
#
#   bash launch/tpu_vm.sh all --name=slm --zone=us-west4-a --type=v5litepod-8 \
#     --version=v2-alpha-tpuv5-lite --config=configs/slm.py --workdir=runs/slm --dry_run
#
# Subcommands: create | mount (--share, on all workers) | install (this checkout, on all workers) |
# run (on all workers, in the background) | logs (of the first, until the run ends, with its exit
# status) | fetch (report and results, to runs/NAME) | cancel (the run saves, and ends) | delete |
# all (create to fetch, then delete; if one of them fails, the VM is left there to look at: it costs
# until you `delete` it).
#
# Flags:
#   --name --zone --project  of the VM; --project is gcloud's own default if it is not given
#   --type --version         accelerator and runtime: v5litepod-8 and v2-alpha-tpuv5-lite, v5p-8 and
#                            v2-alpha-tpuv5, v6e-8 and v2-alpha-tpuv6e, ...
#   --spot                   cheaper, and may be taken away at any moment
#   --queued                 wait in the queue for capacity (give it to `delete` too)
#   --within                 give up waiting in the queue after so long, such as 6h
#   --share                  HOST:/FOLDER of a Filestore instance or another NFS, mounted at /runs
#   --config --workdir       of the study, as for `python -m specialization run`
#   --dry_run                print every command and run none; gcloud is not needed
#   -- ...                   further arguments for `run`, such as --mesh=fsdp
#
# The workdir is a folder on the workers; a relative one begins in the installed checkout. gs://
# itself is not supported, since everything but checkpoints goes through ordinary file calls. The
# disk of a worker is lost with the VM, so for --spot give a folder under /runs (or of another shared
# file system; a bucket through gcsfuse only with a hierarchical namespace, because artifacts appear
# by renaming a folder): a run that was taken away then goes on where it was, after delete and all.
# Slices with a number above 8 have several hosts, which need such a folder; each runs the same
# command, and they find each other by the metadata of the slice.
set -euo pipefail

# shellcheck source=launch/flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/flags.sh"

SUBCOMMANDS="create mount install run logs fetch cancel delete all"
HERE=specialization # the folder on the workers, in their home
SHARED=/runs

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
  [[ -z $within ]] || options+=(--valid-until-duration="$within")
  step "${queue[@]}" create "$name" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$version" ${options[@]+"${options[@]}"} "${where[@]}"
  step bash -c "until state=\$($(quote "${queue[@]}" describe "$name" "${where[@]}" \
    --format='value(state.state)')) && [ \"\$state\" = ACTIVE ]; do
  case \$state in FAILED | SUSPEND* | DELETING | '')
    echo \"error: The request is \${state:-unknown}: delete it, and ask again or elsewhere.\" >&2
    exit 1
  esac
  echo \"The request is \$state.\"
  sleep 30
done"
}

mount() {
  need name zone share
  # A fresh VM may still be updating itself, which locks its packages.
  vm ssh "$name" --worker=all --command="set -e
if mountpoint -q $SHARED; then exit; fi
sudo apt-get -q -o DPkg::Lock::Timeout=600 update
sudo apt-get -q -o DPkg::Lock::Timeout=600 -y install nfs-common
sudo mkdir -p $SHARED
sudo mount -t nfs -o rw,hard $(quote "$share") $SHARED
sudo chmod 777 $SHARED"
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
  need name zone type config workdir
  local command
  # One host too finds itself by the metadata, so that no list of types decides who runs alone.
  command=$(quote .venv/bin/python -m specialization run --config="$config" --workdir="$workdir" \
    --coordinator=auto ${arguments[@]+"${arguments[@]}"})
  # The job outlives this connection, and leaves its exit status behind.
  vm ssh "$name" --worker=all --command="cd $HERE || exit
if [ -e run.pid ] && kill -0 \$(cat run.pid) 2>/dev/null; then
  echo 'error: A run is going on here: follow it with logs, or end it with cancel.' >&2
  exit 2
fi
rm -f run.status
: >run.log
PYTHONUNBUFFERED=1 nohup bash -c $(quote "$command; echo \$? >run.status") >run.log 2>&1 </dev/null &
echo \$! >run.pid"
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

cancel() {
  need name zone
  # What has run.pid is the shell that waits for the run, and notes its exit status.
  vm ssh "$name" --worker=all --command="cd $HERE && pkill -TERM -P \$(cat run.pid)"
}

delete() {
  need name zone
  if [[ $queued == no ]]; then
    vm delete "$name" --quiet
  else
    step gcloud compute tpus queued-resources delete "$name" --force --quiet "${where[@]}"
  fi
}

remind() {
  local status=$? command=(bash "$SCRIPT" delete --name="$name" "${where[@]}")
  [[ $queued == no ]] || command+=(--queued)
  ((status == 0)) || echo "error: This ended with exit status $status. What was created is still" \
    "there, and costs until you delete it: $(quote "${command[@]}")" >&2
}

all() {
  need name zone type version config workdir
  trap remind EXIT
  create
  [[ -z $share ]] || mount
  install
  run
  logs
  fetch
  delete
}

choose "$SUBCOMMANDS" "$@"
shift
name="" zone="" project="" type="" version="" within="" share="" config="" workdir=""
spot=no queued=no
read_flags "name zone project type version within share config workdir" "spot queued dry_run" "$@"
match '.*-[0-9]+' "a type with its size, such as v5litepod-8" type
match '[^:[:space:]]+:/[^[:space:]]+' "HOST:/FOLDER" share
[[ $workdir != gs://* ]] ||
  fail "--workdir=$workdir is a bucket: give a folder, such as one where it is mounted."
[[ -z $share || -z $workdir || $workdir == $SHARED/* ]] ||
  fail "--workdir=$workdir is not on the share: give a folder under $SHARED/."
if [[ -n $type && -n $workdir && $workdir != /* ]] && ((10#${type##*-} > 8)); then
  fail "--workdir=$workdir would be another folder on each host of a $type: give one that they share" \
    "with its whole path, such as $SHARED/slm."
fi
[[ -z $within || $queued == yes ]] || fail "--within=$within is for the queue: add --queued."
is_config "$config"
[[ $dry_run == yes ]] || command -v gcloud >/dev/null ||
  fail "There is no gcloud: install the Google Cloud CLI, or look with --dry_run."
where=(--zone="$zone")
[[ -z $project ]] || where+=(--project="$project")
"$subcommand"

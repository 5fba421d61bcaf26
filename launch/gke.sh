#!/usr/bin/env bash
# Runs a study on TPU slices of Google Kubernetes Engine.
#
#   bash launch/gke.sh all --name=slm --cluster=research --region=us-west4 --project=mine \
#     --repository=us-west4-docker.pkg.dev/mine/images --accelerator=tpu-v5-lite-podslice \
#     --topology=4x4 --hosts=4 --chips=4 --claim=runs --config=configs/slm.py \
#     --workdir=/runs/slm --dry_run
#
# Subcommands: pool (a node pool of that slice) | image (builds and pushes it) | run | logs (until the
# job ends) | cancel | remove (the node pool: it costs until then) | all (pool to logs, then remove)
#
# Flags:
#   --name               of the job and its node pool
#   --cluster --region --project  where
#   --repository         of images, in Artifact Registry
#   --machine            of each host, such as ct5lp-hightpu-4t
#   --accelerator --topology  of the slice, as GKE calls them
#   --hosts --chips      its machines, and the chips of each
#   --spot               cheaper, and may be taken away at any moment
#   --claim              PersistentVolumeClaim of a file system that all hosts can write, mounted at
#                        /runs (Filestore, or a bucket with a hierarchical namespace)
#   --config --workdir   of the study; the latter begins with /runs/
#   --dry_run            print every command and manifest, and run none
#   -- ...               further arguments for `run`, such as --config.seed=1
#
# A pod that is told to end has two minutes to save; the job starts all of them again, and the study
# goes on.
set -euo pipefail

# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

SUBCOMMANDS="pool image run logs cancel remove all"
PORT=8476

need() {
  local flag
  for flag in "$@"; do
    [[ -n ${!flag} ]] || fail "$subcommand needs --$flag=... (see the top of launch/gke.sh)."
  done
}

step() {
  quote "$@"
  if [[ $dry_run == no ]]; then
    "$@"
  fi
}

pool() {
  need name cluster region project machine topology hosts
  local options=()
  [[ $spot == no ]] || options+=(--spot)
  step gcloud container node-pools create "$name" --cluster="$cluster" --region="$region" \
    --project="$project" --machine-type="$machine" --tpu-topology="$topology" \
    --num-nodes="$hosts" ${options[@]+"${options[@]}"}
}

# Prints what Cloud Build is to do.
build() {
  cat <<END
steps:
- name: gcr.io/cloud-builders/docker
  args: [build, --file=launch/Dockerfile, --build-arg=EXTRA=tpu, --tag=$repository/$name, .]
images: [$repository/$name]
END
}

image() {
  need name repository project
  local file=${TMPDIR:-/tmp}/specialization-$name.yaml
  if [[ $dry_run == yes ]]; then
    echo "cat >$file <<'END'"
    build
    echo "END"
  else
    build >"$file"
  fi
  step gcloud builds submit "$ROOT" --project="$project" --config="$file"
}

# Prints the manifest: a name for each host, and one pod on each, of which none starts alone.
manifest() {
  local argument
  cat <<END
apiVersion: v1
kind: Service
metadata:
  name: $name
spec:
  clusterIP: None
  selector: {job-name: $name}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: $name
spec:
  completionMode: Indexed
  completions: $hosts
  parallelism: $hosts
  backoffLimit: 1000
  template:
    spec:
      subdomain: $name
      restartPolicy: OnFailure
      terminationGracePeriodSeconds: 120
      nodeSelector:
        cloud.google.com/gke-tpu-accelerator: $accelerator
        cloud.google.com/gke-tpu-topology: $topology
END
  [[ $spot == no ]] || echo '        cloud.google.com/gke-spot: "true"'
  cat <<END
      volumes:
      - name: runs
        persistentVolumeClaim: {claimName: $claim}
      containers:
      - name: study
        image: $repository/$name
        volumeMounts:
        - {name: runs, mountPath: /runs}
        resources:
          requests: {google.com/tpu: "$chips"}
          limits: {google.com/tpu: "$chips"}
        args:
        - run
END
  local all=(--config="$config" --workdir="$workdir" ${arguments[@]+"${arguments[@]}"})
  if ((hosts > 1)); then
    # shellcheck disable=SC2016 # Kubernetes expands it.
    all+=(--coordinator="$name-0.$name:$PORT" --processes="$hosts" --process='$(JOB_COMPLETION_INDEX)')
  fi
  for argument in "${all[@]}"; do
    echo "        - '${argument//\'/\'\'}'"
  done
}

run() {
  need name repository accelerator topology hosts chips claim config workdir
  if [[ $dry_run == yes ]]; then
    echo "kubectl apply --filename=- <<'END'"
    manifest
    echo "END"
  else
    manifest | kubectl apply --filename=-
  fi
}

logs() {
  need name
  step kubectl wait --for=condition=Ready --timeout=-1s pod --selector="job-name=$name,batch.kubernetes.io/job-completion-index=0"
  step kubectl logs --follow --selector="job-name=$name,batch.kubernetes.io/job-completion-index=0" --tail=-1
}

cancel() {
  need name
  step kubectl delete job,service "$name"
}

remove() {
  need name cluster region project
  step gcloud container node-pools delete "$name" --cluster="$cluster" --region="$region" \
    --project="$project" --quiet
}

all() {
  pool
  image
  run
  logs
  cancel
  remove
}

subcommand=${1:-}
[[ -n $subcommand && " $SUBCOMMANDS " == *" $subcommand "* ]] ||
  fail "The subcommand ${subcommand:-(none)} is unknown: choose one of $SUBCOMMANDS."
shift
name="" cluster="" region="" project="" repository="" machine="" accelerator="" topology=""
hosts="" chips="" claim="" config="" workdir="" spot=no dry_run=no arguments=()
while (($#)); do
  case $1 in
    --spot | --dry_run) printf -v "${1#--}" yes ;;
    --name=* | --cluster=* | --region=* | --project=* | --repository=* | --machine=* | \
      --accelerator=* | --topology=* | --hosts=* | --chips=* | --claim=* | --config=* | --workdir=*)
      flag=${1%%=*}
      printf -v "${flag#--}" %s "${1#*=}"
      ;;
    --)
      shift
      arguments=("$@")
      break
      ;;
    *) fail "The flag $1 is unknown or lacks its =VALUE: see the top of launch/gke.sh." ;;
  esac
  shift
done
for flag in hosts chips; do
  [[ -z ${!flag} || ${!flag} =~ ^[1-9][0-9]*$ ]] || fail "--$flag=${!flag} is not a number."
done
[[ -z $workdir || $workdir == /runs/* ]] ||
  fail "--workdir=$workdir is not on the shared file system: give a folder under /runs/."
[[ -z $config || -f $ROOT/${config%%:*} ]] ||
  fail "--config=$config is no file of this checkout: give one such as configs/slm.py."
if [[ $dry_run == no ]]; then
  for tool in gcloud kubectl; do
    command -v "$tool" >/dev/null || fail "There is no $tool: install it, or look with --dry_run."
  done
fi
"$subcommand"

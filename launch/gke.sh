#!/usr/bin/env bash
# Runs a study on a TPU slice of Google Kubernetes Engine. Guide: docs/launch/gke.md.
#
#   bash launch/gke.sh all --name=slm --cluster=research --region=us-west4 --zone=us-west4-a \
#     --project=mine --repository=us-west4-docker.pkg.dev/mine/images --machine=ct5lp-hightpu-4t \
#     --accelerator=tpu-v5-lite-podslice --topology=4x4 --hosts=4 --chips=4 --claim=runs \
#     --config=configs/slm.py --workdir=/runs/slm --dry_run
#
# Subcommands: connect (gives kubectl the cluster) | pool (creates a node pool of that slice) | image
# (builds and pushes it) | run | logs (until the job ends; an error if it failed) | fetch (report and
# results, to runs/NAME) | cancel | remove (the node pool: it costs until then) | all (connect to
# fetch, then cancel and remove; if one of them fails, the node pool stays, and costs).
#
# Flags:
#   --name               of the job, its image and its node pool
#   --cluster --region --project  where
#   --zone               of the node pool, in that region
#   --repository         of images, in Artifact Registry
#   --machine            of each host, such as ct5lp-hightpu-4t
#   --accelerator --topology  of the slice, as GKE calls them
#   --hosts --chips      its machines, and the chips of each
#   --spot               cheaper, and may be taken away at any moment
#   --claim              PersistentVolumeClaim of a file system that all hosts can write, mounted at
#                        /runs (Filestore; a bucket only with a hierarchical namespace)
#   --config --workdir   of the study; the latter begins with /runs/
#   --dry_run            print every command and manifest, and run none
#   -- ...               further arguments for `run`, such as --mesh=fsdp
#
# A pod that is told to end has two minutes to save, less where a spot machine goes; a new one takes
# its place, and the study goes on. What a person has to mend (exit status 2) ends the job.
set -euo pipefail

# shellcheck source=launch/flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/flags.sh"

SUBCOMMANDS="connect pool image run logs fetch cancel remove all"
PORT=8476
BREAKDOWNS=10 # of all pods, until the job is given up

# Which cluster is said each time, since kubectl's own idea of it may be another.
kube() {
  step kubectl --context="gke_${project}_${region}_$cluster" "$@"
}

connect() {
  need cluster region project
  step gcloud container clusters get-credentials "$cluster" --region="$region" --project="$project"
}

pool() {
  need name cluster region zone project machine topology hosts
  local options=()
  # A slice of one host has the topology of its machine, and is refused with another word on it.
  ((hosts == 1)) || options+=(--tpu-topology="$topology")
  [[ $spot == no ]] || options+=(--spot)
  step gcloud container node-pools create "$name" --cluster="$cluster" --region="$region" \
    --project="$project" --node-locations="$zone" --machine-type="$machine" --num-nodes="$hosts" \
    ${options[@]+"${options[@]}"}
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
    echo "cat >$(quote "$file") <<'END'"
    build
    echo "END"
  else
    build >"$file"
  fi
  step gcloud builds submit "$ROOT" --project="$project" --config="$file"
}

# Prints a word for YAML, as Kubernetes is to take it: without a look for variables in it.
literal() {
  local word=${1//\$(/\$\$(}
  echo "'${word//\'/\'\'}'"
}

# Prints the manifest: a name for each host, and one pod on each, of which none starts alone.
# Pods whose container is restarted in place are none that a failure policy sees, hence Never.
manifest() {
  local argument
  cat <<END
apiVersion: v1
kind: Service
metadata:
  name: $name
spec:
  clusterIP: None
  publishNotReadyAddresses: true
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
  backoffLimit: $((BREAKDOWNS * hosts))
  podFailurePolicy:
    rules:
    - action: FailJob # what a person has to mend
      onExitCodes: {containerName: study, operator: In, values: [2]}
    - action: Ignore # the machine was taken away
      onPodConditions: [{type: DisruptionTarget}]
    - action: Ignore # it was told to end, or another was, and has saved
      onExitCodes: {containerName: study, operator: In, values: [143]}
  template:
    spec:
      subdomain: $name
      restartPolicy: Never
      terminationGracePeriodSeconds: 120
      shareProcessNamespace: true # the first process of a namespace would not end by SIGTERM
      nodeSelector:
        cloud.google.com/gke-tpu-accelerator: $accelerator
        cloud.google.com/gke-tpu-topology: $topology
        cloud.google.com/gke-nodepool: $name
END
  [[ $spot == no ]] || echo '        cloud.google.com/gke-spot: "true"'
  cat <<END
      volumes:
      - name: runs
        persistentVolumeClaim: {claimName: $claim}
      containers:
      - name: study
        image: $repository/$name
        imagePullPolicy: Always
        volumeMounts:
        - {name: runs, mountPath: /runs}
        resources:
          requests: {google.com/tpu: "$chips"}
          limits: {google.com/tpu: "$chips"}
        args:
        - run
END
  for argument in --config="$config" --workdir="$workdir" ${arguments[@]+"${arguments[@]}"}; do
    echo "        - $(literal "$argument")"
  done
  if ((hosts > 1)); then
    echo "        - --coordinator=$name-0.$name:$PORT"
    echo "        - --processes=$hosts"
    echo "        - --process=\$(JOB_COMPLETION_INDEX)"
  fi
}

# Prints a pod without TPUs that has the folder of the runs, to copy from.
reader() {
  cat <<END
apiVersion: v1
kind: Pod
metadata:
  name: $name-reader
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes:
  - name: runs
    persistentVolumeClaim: {claimName: $claim}
  containers:
  - name: reader
    image: $repository/$name
    command: [sleep, "3600"]
    volumeMounts:
    - {name: runs, mountPath: /runs}
END
}

# Hands what a function prints to kubectl.
apply() {
  if [[ $dry_run == yes ]]; then
    echo "$(kube apply --filename=-) <<'END'"
    "$1"
    echo "END"
  else
    "$1" | kube apply --filename=-
  fi
}

run() {
  need name cluster region project repository accelerator topology hosts chips claim config workdir
  apply manifest
}

# A pod may be followed by others, and each has its own log.
logs() {
  need name cluster region project
  local kubectl first
  kubectl=$(quote kubectl --context="gke_${project}_${region}_$cluster")
  first=--selector=job-name=$name,batch.kubernetes.io/job-completion-index=0
  step bash -c "shown=
pod() {
  $kubectl get pod $(quote "$first") --field-selector=status.phase!=Pending \\
    --sort-by=.metadata.creationTimestamp --output=name | tail -n 1
}
state() {
  $kubectl get job $(quote "$name") \\
    --output='jsonpath={range .status.conditions[?(@.status==\"True\")]}{.type}: {.message}{\"\\n\"}{end}'
}
while is=\$(state) || exit; do
  new=\$(pod)
  if [[ -n \$new && \$new != \"\$shown\" ]]; then
    shown=\$new
    $kubectl logs --follow \"\$new\" || shown=
  fi
  case \$is in *Complete:*) exit ;; *Failed:*) echo \"error: \$is\" >&2; exit 1 ;; esac
  sleep 5
done"
}

fetch() {
  need name cluster region project repository claim workdir
  local part
  apply reader
  kube wait --for=condition=Ready --timeout=600s pod "$name-reader"
  for part in report results; do
    step mkdir -p "$ROOT/runs/$name/$part"
    kube cp "$name-reader:$workdir/$part" "$ROOT/runs/$name/$part"
  done
  kube delete pod "$name-reader"
}

cancel() {
  need name cluster region project
  kube delete job,service "$name"
}

remove() {
  need name cluster region project
  step gcloud container node-pools delete "$name" --cluster="$cluster" --region="$region" \
    --project="$project" --quiet
}

remind() {
  local status=$?
  ((status == 0)) || echo "error: This ended with exit status $status. The node pool, if there is" \
    "one, costs until you remove it: $(quote bash "$SCRIPT" remove --name="$name" \
      --cluster="$cluster" --region="$region" --project="$project")" >&2
}

all() {
  need name cluster region zone project repository machine accelerator topology hosts chips claim \
    config workdir
  trap remind EXIT
  connect
  pool
  image
  run
  logs
  fetch
  cancel
  remove
}

choose "$SUBCOMMANDS" "$@"
shift
name="" cluster="" region="" zone="" project="" repository="" machine="" accelerator="" topology=""
hosts="" chips="" claim="" config="" workdir="" spot=no
where="cluster region zone project" slice="machine accelerator topology hosts chips"
read_flags "name $where repository $slice claim config workdir" "spot dry_run" "$@"
match '[1-9][0-9]*' "a number" hosts chips
match '[1-9][0-9]*(x[1-9][0-9]*){1,2}' "a topology such as 4x4" topology
match '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' "a name of at most 40 small letters, digits and -" name
match '[a-z0-9][a-z0-9.-]*' "a name of small letters, digits, - and ." accelerator claim
match '[^[:space:]]+' "one word" repository
if [[ -n $topology && -n $hosts && -n $chips ]] && ((${topology//x/*} != hosts * chips)); then
  fail "--topology=$topology has $((${topology//x/*})) chips, but --hosts=$hosts with --chips=$chips" \
    "each have $((hosts * chips))."
fi
[[ -z $workdir || $workdir == /runs/?* ]] ||
  fail "--workdir=$workdir is not on the shared file system: give a folder under /runs/."
is_config "$config"
if [[ $dry_run == no ]]; then
  for tool in gcloud kubectl; do
    command -v "$tool" >/dev/null || fail "There is no $tool: install it, or look with --dry_run."
  done
fi
"$subcommand"

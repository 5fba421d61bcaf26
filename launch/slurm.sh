#!/usr/bin/env bash
# Runs a study on a SLURM cluster of GPU machines that share a file system.
#
#   bash launch/slurm.sh install
#   bash launch/slurm.sh submit --name=slm --nodes=4 --gpus=8 --time=12:00:00 \
#     --config=configs/slm.py --workdir=/shared/runs/slm --dry_run -- --config.mesh.fsdp=8
#
# Subcommands: install (this checkout, for CUDA) | submit | logs (until the job ends) | cancel
#
# Flags:
#   --name              of the job
#   --nodes --gpus      machines, and the GPUs of each: one process on each has all of the machine
#   --time              limit, HH:MM:SS; the study saves two minutes before it, and goes on in a new
#                       turn of the same job
#   --partition --account --qos --constraint --mem  as the cluster has them
#   --array=N           N independent runs that share the study's cells, instead of one that has all
#                       machines: best where one machine holds a model
#   --config --workdir  of the study; the latter with its whole path, on the shared file system, as
#                       this checkout has to be
#   --port              on which the processes meet; the default is 8476
#   --dry_run           print the job and submit none; sbatch is not needed
#   -- ...              further arguments for `run`, such as --config.seed=1
set -euo pipefail

# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

SUBCOMMANDS="install submit logs cancel"

need() {
  local flag
  for flag in "$@"; do
    [[ -n ${!flag} ]] || fail "$subcommand needs --$flag=... (see the top of launch/slurm.sh)."
  done
}

step() {
  quote "$@"
  if [[ $dry_run == no ]]; then
    "$@"
  fi
}

# Prints the batch script.
job() {
  local command option
  command=$(quote "$VENV/bin/python" -m specialization run --config="$config" --workdir="$workdir" \
    ${arguments[@]+"${arguments[@]}"})
  echo "#!/usr/bin/env bash"
  echo "#SBATCH --job-name=$name --nodes=$nodes --ntasks-per-node=1 --gpus-per-node=$gpus"
  echo "#SBATCH --exclusive --time=$time --signal=B:TERM@120 --requeue"
  echo "#SBATCH --open-mode=append --output=$workdir/logs/%x-%j.txt"
  for option in ${options[@]+"${options[@]}"}; do
    echo "#SBATCH $option"
  done
  [[ -z $array ]] || echo "#SBATCH --array=0-$((array - 1))"
  cat <<END
set -euo pipefail
cd $(quote "$ROOT")
export PYTHONUNBUFFERED=1
read -r first < <(scontrol show hostnames "\$SLURM_JOB_NODELIST")
export first
is_over=no status=0
trap 'is_over=yes; kill -TERM "\$!"' TERM # srun hands it on, and the study saves.
srun --label bash -c '
  place=()
  if ((SLURM_NTASKS > 1)); then
    place=(--coordinator="\$first:$port" --processes="\$SLURM_NTASKS" --process="\$SLURM_PROCID")
  fi
  exec "\$@" "\${place[@]}"' bash $command &
wait "\$!" || status=\$?
if [[ \$is_over == yes ]]; then
  wait "\$!" || status=\$?
  ((status == 0)) || scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$status"
END
}

install() {
  ensure_environment cuda12
}

submit() {
  need name nodes gpus time config workdir
  if [[ -n $array && $nodes != 1 ]]; then
    fail "--array=$array is of runs of one machine each: give --nodes=1, or leave --array out."
  fi
  step mkdir -p "$workdir/logs"
  if [[ $dry_run == yes ]]; then
    echo "sbatch <<'END'"
    job
    echo "END"
  else
    job | sbatch
  fi
}

logs() {
  need name workdir
  step bash -c "until compgen -G $(quote "$workdir/logs/$name")-'*.txt' >/dev/null; do sleep 5; done
tail -n +1 -F $(quote "$workdir/logs/$name")-*.txt &
while squeue --noheader --me --name=$(quote "$name") | grep -q .; do sleep 10; done
kill %1"
}

cancel() {
  need name
  step scancel --me --name="$name"
}

subcommand=${1:-}
[[ -n $subcommand && " $SUBCOMMANDS " == *" $subcommand "* ]] ||
  fail "The subcommand ${subcommand:-(none)} is unknown: choose one of $SUBCOMMANDS."
shift
name="" nodes="" gpus="" time="" array="" config="" workdir="" port=8476 dry_run=no options=()
arguments=()
while (($#)); do
  case $1 in
    --dry_run) dry_run=yes ;;
    --partition=* | --account=* | --qos=* | --constraint=* | --mem=*) options+=("$1") ;;
    --name=* | --nodes=* | --gpus=* | --time=* | --array=* | --config=* | --workdir=* | --port=*)
      flag=${1%%=*}
      printf -v "${flag#--}" %s "${1#*=}"
      ;;
    --)
      shift
      arguments=("$@")
      break
      ;;
    *) fail "The flag $1 is unknown or lacks its =VALUE: see the top of launch/slurm.sh." ;;
  esac
  shift
done
for flag in nodes gpus array port; do
  [[ -z ${!flag} || ${!flag} =~ ^[1-9][0-9]*$ ]] || fail "--$flag=${!flag} is not a number."
done
[[ -z $workdir || $workdir =~ ^/[^[:space:]%]*$ ]] ||
  fail "--workdir=$workdir must be a whole path without spaces, such as /shared/runs/slm."
[[ -z $config || -f $ROOT/${config%%:*} ]] ||
  fail "--config=$config is no file of this checkout: give one such as configs/slm.py."
[[ $dry_run == yes || $subcommand == install ]] || command -v sbatch >/dev/null ||
  fail "There is no sbatch: run this on a login machine of the cluster, or look with --dry_run."
"$subcommand"

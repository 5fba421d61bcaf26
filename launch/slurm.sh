#!/usr/bin/env bash
# Runs a study on a SLURM cluster of GPU machines that share a file system. Guide:
# docs/launch/slurm.md.
#
#   bash launch/slurm.sh install
#   bash launch/slurm.sh submit --name=slm --nodes=4 --gpus=8 --time=12:00:00 \
#     --config=configs/slm.py --workdir=/shared/runs/slm --dry_run -- --mesh=fsdp
#
# Subcommands: install (this checkout, for CUDA) | submit | logs (until the jobs end) | cancel
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

# shellcheck source=launch/flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/flags.sh"

SUBCOMMANDS="install submit logs cancel"
OPTIONS="partition account qos constraint mem"

# Prints the batch script. What is to save has to get SIGTERM by scancel: srun answers its own with
# SIGKILL for all. The shell is told by SIGUSR1, since SIGTERM is what a cancelled job gets too, and
# that is not to come again. A task of an array has a name beside its number, which may be that of
# the whole array.
job() {
  local command option
  command=$(quote "$VENV/bin/python" -m specialization run --config="$config" --workdir="$workdir" \
    ${arguments[@]+"${arguments[@]}"})
  echo "#!/usr/bin/env bash"
  echo "#SBATCH --job-name=$name --nodes=$nodes --ntasks-per-node=1 --gpus-per-node=$gpus"
  echo "#SBATCH --exclusive --time=$time --signal=B:USR1@120 --requeue"
  echo "#SBATCH --open-mode=append --output=$workdir/logs/%x-%j.txt"
  for option in $OPTIONS; do
    [[ -z ${!option} ]] || echo "#SBATCH --$option=${!option}"
  done
  [[ -z $array ]] || echo "#SBATCH --array=0-$((array - 1))"
  cat <<END
set -euo pipefail
cd $(quote "$ROOT")
export PYTHONUNBUFFERED=1
job=\$SLURM_JOB_ID
[[ -z \${SLURM_ARRAY_TASK_ID:-} ]] || job=\${SLURM_ARRAY_JOB_ID}_\$SLURM_ARRAY_TASK_ID
read -r first < <(scontrol show hostnames "\$SLURM_JOB_NODELIST")
export first
is_over=no status=0
trap 'is_over=yes; scancel --signal=TERM "\$job" || true' USR1
srun --label --cpu-bind=none bash -c '
  place=()
  if ((SLURM_NTASKS > 1)); then
    place=(--coordinator="\$first:$port" --processes="\$SLURM_NTASKS" --process="\$SLURM_PROCID")
  fi
  exec "\$@" "\${place[@]}"' bash $command &
wait "\$!" || status=\$?
if [[ \$is_over == yes ]]; then
  status=0
  wait "\$!" || status=\$? # The first was ended by the signal.
fi
echo "The study ended with exit status \$status."
if [[ \$is_over == yes ]] && ((status != 0 && status != 2)); then
  scontrol requeue "\$job"
fi
exit "\$status"
END
}

install() {
  step bash -c "source $(quote "$ROOT/launch/setup.sh") && ensure_environment cuda12"
}

submit() {
  need name nodes gpus time config workdir
  if [[ -n $array && $nodes != 1 ]]; then
    fail "--array=$array is of runs of one machine each: give --nodes=1, or leave --array out."
  fi
  [[ $dry_run == yes || -x $VENV/bin/python ]] ||
    fail "There is no $VENV: make it with bash $SCRIPT install."
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
  local files
  files=$(quote "$workdir/logs/$name")
  step bash -c "is_there() { squeue --noheader --me --name=$name | grep -q .; }
until compgen -G $files'-*.txt' >/dev/null; do
  is_there || { echo 'error: There is no such job, and none has left a log.' >&2; exit 1; }
  sleep 5
done
tail -n +1 -F $files-*.txt &
while is_there; do sleep 10; done
sleep 2
kill \$!"
}

cancel() {
  need name
  step scancel --me --name="$name"
}

choose "$SUBCOMMANDS" "$@"
shift
name="" nodes="" gpus="" time="" array="" config="" workdir="" port=8476
for option in $OPTIONS; do
  printf -v "$option" ""
done
read_flags "name nodes gpus time array config workdir port $OPTIONS" dry_run "$@"
match '[1-9][0-9]*' "a number" nodes gpus array port
match '[A-Za-z0-9_.-]+' "a name of letters, digits and _.-" name
match '([0-9]+-)?[0-9]+(:[0-9]+){0,2}' "a time such as 12:00:00 or 2-00:00:00" time
# shellcheck disable=SC2086 # These are words.
match '[^[:space:]]+' "one word" $OPTIONS
[[ -z $workdir || $workdir =~ ^/[^[:space:]%]*$ ]] ||
  fail "--workdir=$workdir must be a whole path without spaces, such as /shared/runs/slm."
is_config "$config"
[[ $dry_run == yes || $subcommand == install ]] || command -v sbatch >/dev/null ||
  fail "There is no sbatch: run this on a login machine of the cluster, or look with --dry_run."
"$subcommand"

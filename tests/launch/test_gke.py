"""launch/gke.sh: what it would do, and what it does with commands in the cluster's place."""

import shlex

import pytest
import yaml

import shell
from shell import ROOT, bash, executable, sentence

WHERE = ("--name=slm", "--cluster=research", "--region=here", "--project=mine")
POOL = ("--zone=here-a", "--machine=ct5lp-hightpu-4t", "--topology=4x4", "--hosts=4")
SLICE = ("--accelerator=tpu-v5-lite-podslice", "--topology=4x4", "--hosts=4", "--chips=4")
IMAGES = "--repository=here-docker.pkg.dev/mine/images"
STUDY = ("--claim=runs", "--config=configs/slm.py", "--workdir=/runs/slm")
ALL = (*WHERE, *POOL, *SLICE, IMAGES, *STUDY)
KUBECTL = "kubectl --context=gke_mine_here_research"


def dry_run(subcommand, *flags):
  return shell.dry_run("gke.sh", subcommand, *flags)


def manifest(*flags):
  """Returns the Service and the Job that `run` applies."""
  text = dry_run("run", *WHERE, IMAGES, *SLICE, *STUDY, *flags)
  assert text.startswith(f"{KUBECTL} apply --filename=- <<'END'\n")
  return list(yaml.safe_load_all(*shell.documents(text)))


def test_dry_run_of_connect_pool_and_remove():
  assert dry_run("connect", *WHERE) == (
    "gcloud container clusters get-credentials research --region=here --project=mine\n"
  )
  created = (
    "gcloud container node-pools create slm --cluster=research --region=here --project=mine"
    " --node-locations=here-a --machine-type=ct5lp-hightpu-4t --num-nodes="
  )
  assert dry_run("pool", *WHERE, *POOL) == f"{created}4 --tpu-topology=4x4\n"
  assert dry_run("pool", *WHERE, *POOL, "--hosts=1", "--topology=2x2", "--spot") == (
    f"{created}1 --spot\n"
  )
  assert dry_run("remove", *WHERE) == (
    "gcloud container node-pools delete slm --cluster=research --region=here --project=mine"
    " --quiet\n"
  )


def test_dry_run_of_image():
  text = dry_run("image", *WHERE, IMAGES)
  (built,) = shell.documents(text)
  recipe = yaml.safe_load(built)
  assert recipe["images"] == ["here-docker.pkg.dev/mine/images/slm"]
  assert f"--tag={recipe['images'][0]}" in recipe["steps"][0]["args"]
  assert (ROOT / "launch/Dockerfile").exists()
  assert text.splitlines()[-1].startswith(f"gcloud builds submit {ROOT} --project=mine --config=")


def test_each_host_has_a_name():
  service, job = manifest()
  assert service["kind"] == "Service"
  assert service["spec"]["clusterIP"] == "None"
  assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
  assert job["spec"]["completionMode"] == "Indexed"
  assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
  assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"] == "slm"


def test_pods_are_on_the_slice_and_have_the_runs():
  _, job = manifest("--spot")
  pod = job["spec"]["template"]["spec"]
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
    "cloud.google.com/gke-tpu-topology": "4x4",
    "cloud.google.com/gke-nodepool": "slm",
    "cloud.google.com/gke-spot": "true",
  }
  (container,) = pod["containers"]
  assert container["image"] == "here-docker.pkg.dev/mine/images/slm"
  assert container["resources"]["limits"] == container["resources"]["requests"]
  assert container["resources"]["limits"] == {"google.com/tpu": "4"}
  assert container["volumeMounts"] == [{"name": "runs", "mountPath": "/runs"}]
  assert pod["volumes"] == [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}]
  assert "gke-spot" not in str(manifest())


def test_what_ends_a_job_and_what_begins_it_again():
  _, job = manifest()
  pod = job["spec"]["template"]["spec"]
  assert pod["restartPolicy"] == "Never"  # With another one a failure policy is refused.
  assert pod["terminationGracePeriodSeconds"] == 120
  assert pod["shareProcessNamespace"] is True
  assert job["spec"]["backoffLimit"] == 40

  def codes(*values):
    return dict(containerName=pod["containers"][0]["name"], operator="In", values=list(values))

  assert job["spec"]["podFailurePolicy"]["rules"] == [
    {"action": "FailJob", "onExitCodes": codes(2)},
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
    {"action": "Ignore", "onExitCodes": codes(143)},
  ]


def test_words_survive_and_hosts_find_each_other():
  _, job = manifest("--", "--only=it's *", "--config.name=$(HOME)", "--config.seed=1")
  arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
  assert arguments == [
    "run",
    "--config=configs/slm.py",
    "--workdir=/runs/slm",
    "--only=it's *",
    "--config.name=$$(HOME)",  # Kubernetes reads $$( as $(.
    "--config.seed=1",
    "--coordinator=slm-0.slm:8476",
    "--processes=4",
    "--process=$(JOB_COMPLETION_INDEX)",
  ]
  _, job = manifest("--hosts=1", "--topology=2x2")
  arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
  assert arguments == ["run", "--config=configs/slm.py", "--workdir=/runs/slm"]


def test_dry_run_of_what_follows():
  followed = dry_run("logs", *WHERE)
  assert shell.is_bash(shlex.split(followed)[-1])
  assert f"{KUBECTL} logs --follow" in followed
  text = dry_run("fetch", *WHERE, IMAGES, *STUDY)
  reader = yaml.safe_load(*shell.documents(text))
  assert reader["kind"] == "Pod"
  assert reader["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "runs"}
  assert text.partition("\nEND\n")[2].splitlines() == [
    f"{KUBECTL} wait --for=condition=Ready --timeout=600s pod slm-reader",
    f"mkdir -p {ROOT}/runs/slm/report",
    f"{KUBECTL} cp slm-reader:/runs/slm/report {ROOT}/runs/slm/report",
    f"mkdir -p {ROOT}/runs/slm/results",
    f"{KUBECTL} cp slm-reader:/runs/slm/results {ROOT}/runs/slm/results",
    f"{KUBECTL} delete pod slm-reader",
  ]
  assert dry_run("cancel", *WHERE) == f"{KUBECTL} delete job,service slm\n"


def test_dry_run_of_all_is_each_in_turn():
  parts = ("connect", "pool", "image", "run", "logs", "fetch", "cancel", "remove")
  expected = [dry_run(part, *ALL) for part in parts]
  assert all(expected)
  assert dry_run("all", *ALL) == "".join(expected)


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ([""], "subcommand (none) is unknown: choose one of connect"),
    (["make"], "subcommand make is unknown"),
    (["pool", *WHERE, *POOL[1:]], "pool needs --zone="),
    (["run", *WHERE, IMAGES, *SLICE, *STUDY[1:]], "run needs --claim="),
    (["run", *WHERE[:2], IMAGES, *SLICE, *STUDY], "run needs --region="),
    (["all", *ALL[1:]], "all needs --name="),
    (["pool", *ALL, "--hosts=four"], "--hosts=four is not a number"),
    (["run", *ALL, "--topology=16"], "--topology=16 is not a topology"),
    (["run", *ALL, "--chips=8"], "has 16 chips, but --hosts=4 with --chips=8 each have 32"),
    (["run", *ALL, "--name=My_job"], "--name=My_job is not a name"),
    (["run", *ALL, "--workdir=runs/slm"], "give a folder under /runs/"),
    (["run", *ALL, "--workdir=/runs/"], "give a folder under /runs/"),
    (["run", *ALL, "--config=configs/none.py"], "configs/none.py is no file"),
    (["run", *ALL, "--colour=red"], "flag --colour=red is unknown"),
    (["logs", "--name"], "flag --name is unknown or lacks its =VALUE"),
  ],
)
def test_wrong_flags_are_one_sentence(arguments, said):
  assert said in sentence(bash(ROOT / "launch/gke.sh", *arguments, "--dry_run"))


@pytest.mark.parametrize("there", [(), ("gcloud",)])
def test_without_its_tools_it_says_so(bin, there):
  for tool in there:
    executable(bin / tool, "#!/bin/sh\n")
  line = sentence(bash(ROOT / "launch/gke.sh", "cancel", *WHERE, path=bin))
  assert f"There is no {'kubectl' if there else 'gcloud'}" in line


CLUSTER = r"""#!/bin/bash
# Stands for gcloud and kubectl. A line of $STATES is the pod and the state of the job, in turn.
echo "${0##*/} $*" >>"$NOTES/asked"
case "$*" in
  *" apply "*) { echo ---; cat; } >>"$NOTES/applied" ;;
  *" get job "*) read -r _ state <"$STATES" && echo "$state" ;;
  *" get pod "*)
    read -r pod _ <"$STATES"
    echo "$pod"
    [[ $(wc -l <"$STATES") == 1 ]] || sed -i 1d "$STATES" ;;
  *" logs "*) echo "of ${*: -1}" ;;
esac
"""


@pytest.fixture
def cluster(bin, tmp_path):
  """Runs a subcommand of a checkout of its own; returns it and the folder of what was asked."""
  checkout = shell.clone(tmp_path / "clone")
  for tool in ("gcloud", "kubectl"):
    executable(bin / tool, CLUSTER)
  executable(bin / "sleep", "#!/bin/sh\n")
  shell.link(bin, "wc", "sed")

  def start(states, subcommand="all"):
    (tmp_path / "states").write_text(states)
    where = dict(STATES=str(tmp_path / "states"), NOTES=str(tmp_path), TMPDIR=str(tmp_path))
    return bash(checkout / "launch/gke.sh", subcommand, *ALL, path=bin, **where)

  return start, tmp_path


def test_all_follows_each_pod_and_leaves_nothing(cluster):
  start, folder = cluster
  result = start("a\na\nb\nb Complete: \n")
  assert result.returncode == 0, result
  shown = [line for line in result.stdout.splitlines() if line.startswith("of ")]
  assert shown == ["of a", "of b"]
  kinds = [part["kind"] for part in yaml.safe_load_all((folder / "applied").read_text()) if part]
  assert kinds == ["Service", "Job", "Pod"]
  asked = (folder / "asked").read_text()
  assert asked.count("apply --filename=-") == 2
  assert asked.splitlines()[-1].startswith("gcloud container node-pools delete slm")
  assert (folder / "specialization-slm.yaml").exists()


def test_a_failed_job_is_told_and_the_pool_left(cluster):
  start, folder = cluster
  result = start("a\na Failed: Container study failed with exit code 2\n")
  assert result.returncode == 1
  assert "of a" in result.stdout
  first, second = result.stderr.splitlines()
  assert first == "error: Failed: Container study failed with exit code 2"
  assert "costs until you remove it: bash launch/gke.sh remove --name=slm" in second
  assert "node-pools delete" not in (folder / "asked").read_text()


def test_logs_of_no_job_are_an_error(cluster, bin):
  start, _ = cluster
  executable(bin / "kubectl", "#!/bin/sh\nexit 1\n")
  assert start("a\n", "logs").returncode == 1

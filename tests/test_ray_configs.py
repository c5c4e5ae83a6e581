"""What configs/ray says fits the jobs, the experiments and the versions that it names."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config
from pipeline.stages.cluster import required_cpus

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "ray"
IN_IMAGE = "/home/ray/dvflnet/"
RAY_JOBS = sorted(FOLDER.glob("*.rayjob.yaml"))


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())["spec"]


def command_of(path: Path) -> tuple[Path, ExperimentConfig]:
    """Return the job that the entrypoint starts, and its config."""
    python, job, config, *settings = shlex.split(read(path)["entrypoint"])
    assert python == "python"
    here = [ROOT / name.removeprefix(IN_IMAGE) for name in (job, config)]
    return here[0], load_config(here[1], settings)


def test_both_stages_are_there():
    assert {command_of(path)[0].name for path in RAY_JOBS} == {
        "cache_teacher.py",
        "train_student.py",
    }


@pytest.mark.parametrize("path", RAY_JOBS, ids=lambda path: path.name)
def test_the_cluster_is_large_enough_for_the_job(path):
    job, config = command_of(path)
    assert job.exists()
    (group,) = read(path)["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"], "the job does not wait for a growing cluster"
    (container,) = group["template"]["spec"]["containers"]
    offered = container["resources"]["limits"]
    assert offered == container["resources"]["requests"]
    num_cpus = group["replicas"] * int(offered["cpu"])
    num_gpus = group["replicas"] * int(offered["nvidia.com/gpu"])
    cluster = config.cluster
    if job.name == "cache_teacher.py":
        assert required_cpus(cluster.num_decoders, cluster.num_teachers) <= num_cpus
        assert cluster.num_decoders <= num_cpus
        assert cluster.num_teachers <= num_gpus
    else:
        assert cluster.num_workers * config.train.num_loaders <= num_cpus
        assert cluster.num_workers <= num_gpus


@pytest.mark.parametrize("path", RAY_JOBS, ids=lambda path: path.name)
def test_a_ray_job_is_closed_to_strangers_and_holds_no_secret(path):
    spec = read(path)
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert not re.search(r"AWS_\w+[:=]\s*\S|password|token:\s*\w{8}", path.read_text(), re.I)
    assert spec["shutdownAfterJobFinishes"]
    assert spec["submitterConfig"]["backoffLimit"] == 0
    assert spec["activeDeadlineSeconds"] > 0


def test_versions_are_those_of_the_constraints():
    (pinned,) = re.findall(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert f"rayproject/ray:{pinned}-" in (FOLDER / "Dockerfile").read_text()
    assert {read(path)["rayClusterSpec"]["rayVersion"] for path in RAY_JOBS} == {pinned}


def test_the_runtime_environment_installs_nothing_and_leaves_out_what_no_job_reads():
    environment = yaml.safe_load((FOLDER / "runtime_env.yaml").read_text())
    assert environment.keys() == {"excludes", "env_vars"}
    assert {name.strip("/") for name in environment["excludes"]} == {"benchmarks", "docs", "tests"}

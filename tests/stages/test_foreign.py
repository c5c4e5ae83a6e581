"""Networks that are not of the family, through all stages: a frozen teacher, a mobile student."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dvflnet.weights import state_digest
from pipeline.config.load import load_config
from pipeline.errors import ConfigError
from pipeline.networks.trained import load_trained
from pipeline.networks.weight_files import read_weights
from pipeline.results.prediction import Predictor
from pipeline.stages import cluster
from pipeline.stages.cache import plan_cache, run_cache_teacher
from pipeline.stages.cluster import LOCAL
from pipeline.stages.doctor import run_doctor
from pipeline.stages.evaluate import plan_evaluation, run_evaluate
from pipeline.stages.train import run_training
from pipeline.training.plan import plan_student, plan_teacher
from tests.odd_networks import Net
from tests.stages.conftest import index

TEACHER, STUDENT = "tests.odd_networks:good", "examples.mobile_student:build"
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_any_teacher_and_any_student(
    tmp_path: Path, write_experiment: Any, private_ray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_experiment(tmp_path)
    values = yaml.safe_load(path.read_text())
    for role, network in (("teacher", TEACHER), ("student", STUDENT)):
        kept = {name: values[role][name] for name in ("optim", "train") if name in values[role]}
        values[role] = {**kept, "network": network}
    path.write_text(yaml.safe_dump(values))
    config = load_config(path)
    index(config)

    run_training(plan_teacher(config), LOCAL)
    trained, front = read_weights(config.teacher_weights_uri), Net(8, 4).front.state_dict()
    found = {name: trained.state[f"front.{name}"] for name in front}
    assert state_digest(found) == state_digest(front)
    assert len(trained.metadata["source_sha256"]) == 64

    store = run_cache_teacher(plan_cache(config), LOCAL)
    assert store.spec.identity["teacher"]["network"] == TEACHER
    run_doctor(config, num_verified=4, json_uri=None)

    plan = plan_student(config)
    result = run_training(plan, LOCAL)
    assert result["metrics"]["model/params_millions"] > 0.5
    summary = run_evaluate(plan_evaluation(config), LOCAL)
    assert list(summary["networks"]) == ["teacher", plan.name]
    nll = result["metrics"]["last/nll"]
    assert summary["networks"][plan.name]["nll"] == pytest.approx(nll, rel=1e-4)
    with Predictor(load_trained(plan.selected)) as predictor:
        assert predictor.predict(plan.manifest.records[0].uri).overall.sum() == pytest.approx(1.0)

    def nowhere(network: str) -> str:
        return f"{network} cannot be imported"

    monkeypatch.setattr(cluster, "_import_error", nowhere)
    with pytest.raises(ConfigError, match=r"node \S+: examples.mobile_student:build cannot"):
        cluster.check_importable(config.student)

"""All stages in order, on one private Ray: the parts fit, and what does not fit is refused."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import (
    DatasetError,
    FingerprintMismatch,
    StoreUnsound,
    TooManyFailedVideos,
    WeightsMismatch,
)
from pipeline.logits.store import open_store
from pipeline.networks.weight_files import read_weights
from pipeline.stages.cache import plan_cache, run_cache_teacher
from pipeline.stages.cluster import LOCAL
from pipeline.stages.doctor import run_doctor
from pipeline.stages.evaluate import plan_evaluation, run_evaluate
from pipeline.stages.index import plan_index, run_index_videos
from pipeline.stages.report import run_report
from pipeline.stages.train import run_training
from pipeline.storage import files
from pipeline.storage.files import read_bytes
from pipeline.tracking.server import connect
from pipeline.training.plan import plan_student, plan_teacher
from tests.html_page import Page
from tests.mlflow_server import find_runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, write_experiment: Any) -> Path:
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def config(path: Path) -> ExperimentConfig:
    return load_config(path)


@pytest.fixture(scope="module")
def results(config: ExperimentConfig, path: Path, private_ray: str) -> dict[str, Any]:
    """Every stage once: what each returned."""
    with_model = load_config(path, ["tracking.log_model=true"])
    return {
        "manifest": run_index_videos(plan_index(config), LOCAL),
        "teacher": run_training(plan_teacher(config), LOCAL),
        "store": run_cache_teacher(plan_cache(config), LOCAL),
        "vflnet": run_training(plan_student(load_config(path, ["loss.distill_weight=0"])), LOCAL),
        "dvflnet": run_training(plan_student(with_model), LOCAL),
    }


def test_the_store_holds_every_wanted_view(config: ExperimentConfig, results: Any) -> None:
    store = pipeline.open_store(config)  # held against the manifest
    assert store.root_digest == open_store(config.store_uri).root_digest
    grid = store.read_all()
    train = [record.split == "train" for record in read_manifest(config.manifest_uri).records]
    for row, is_train in enumerate(train):
        assert grid.status[row].tolist() == ([1, 1, 0] if is_train else [0, 0, 1])


def test_teacher_scores_as_well_from_the_store_as_live(results: Any) -> None:
    live = results["teacher"]["metrics"]["last/top1"]
    assert results["dvflnet"]["metrics"]["teacher/top1"] == pytest.approx(live)


def test_runs_are_linked_by_the_store(config: ExperimentConfig, results: Any) -> None:
    runs = find_runs(config.tracking_uri, "tiny")
    stages = [run.data.tags["stage"] for run in runs if run.data.tags["stage"] != "evaluate"]
    assert sorted(stages) == ["cache_teacher", "train_student", "train_student", "train_teacher"]
    digest = results["store"].root_digest
    where = f"tags.`cache.root_digest` = '{digest}'"
    students = find_runs(config.tracking_uri, "tiny", where)
    assert {run.info.run_name[:6] for run in students} >= {"vflnet", "dvflne"}
    assert all(run.info.status == "FINISHED" for run in runs)
    models = {run.info.run_name: len(run.outputs.model_outputs) for run in students}
    assert [models[results[name]["name"]] for name in ("vflnet", "dvflnet")] == [0, 1]


def test_teacher_and_students_are_evaluated_side_by_side(
    config: ExperimentConfig, results: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run_evaluate(plan_evaluation(config), LOCAL)
    vflnet, dvflnet = results["vflnet"]["name"], results["dvflnet"]["name"]
    assert list(summary["networks"]) == ["teacher", vflnet, dvflnet]
    for name in ("vflnet", "dvflnet"):
        trained, evaluated = results[name]["metrics"], summary["networks"][results[name]["name"]]
        assert evaluated["nll"] == pytest.approx(trained["last/nll"], rel=1e-4)
        assert evaluated["top1"] == pytest.approx(trained["last/top1"])
    assert summary["num_videos"] == 8
    runs = find_runs(config.tracking_uri, "tiny", "tags.stage = 'evaluate'")
    assert {run.data.tags["evaluated"] for run in runs} == {"teacher", vflnet, dvflnet}
    for run in runs:
        note, name = run.data.tags["mlflow.note.content"], run.data.tags["evaluated"]
        assert note.startswith(f"**{name}**: top-1 ")
        assert note.count(" against ") == 2
        assert "Weights: `" in note
    client = connect(config.tracking_uri)
    shown = client.get_experiment(runs[0].info.experiment_id).tags
    assert summary["text"] in shown["mlflow.note.content"]
    assert shown["mlflow.note.content"].startswith("**Best on val: ")
    assert json.loads(shown["mlflow.sharedViewState.students"])["orderByKey"] == (
        "metrics.`last/top1`"
    )
    (trained,) = find_runs(config.tracking_uri, "tiny", f"attributes.run_name = '{dvflnet}'")
    told, evaluated = trained.data.tags["mlflow.note.content"].split("\n\n---\n\n")
    assert told.startswith(f"**{dvflnet}**: nano, ")
    assert evaluated.startswith(f"**{dvflnet}**: top-1 ")
    assert all("val/1x1/top1" in run.data.metrics for run in runs)
    again = run_evaluate(plan_evaluation(config), LOCAL, register="evaluated")
    assert again["networks"] == summary["networks"]
    printed = capsys.readouterr().out
    assert "evaluated already, nothing to do" in printed
    assert "registered: models:/evaluated/1" in printed


@pytest.mark.parametrize("name", ["teacher", "vflnet", "dvflnet"])
def test_the_last_weights_are_of_the_last_epoch(
    config: ExperimentConfig, results: Any, name: str
) -> None:
    run = files.join_uri(config.artefacts, "runs", results[name]["name"])
    epochs = (config.teacher if name == "teacher" else config).train.epochs
    last = read_weights(files.join_uri(run, "last.safetensors"))
    assert last.metadata["epoch"] == str(epochs)


def test_the_report_says_what_the_runs_say(config: ExperimentConfig, results: Any) -> None:
    page = Page(read_bytes(run_report(config)).decode())
    (run,) = find_runs(config.tracking_uri, "tiny", "tags.stage = 'report'")
    client = connect(config.tracking_uri)
    assert "report.html" in {it.path for it in client.list_artifacts(run.info.run_id)}
    assert f"{results['dvflnet']['name']}/last.safetensors VIDEO" in page.sections["next"]
    table = page.sections["comparison"]
    for role, prefix in (("vflnet", "last"), ("dvflnet", "last"), ("dvflnet", "teacher")):
        metrics = results[role]["metrics"]
        assert f"{100 * metrics[f'{prefix}/top1']:.1f}%" in table
        assert f"{metrics[f'{prefix}/nll']:.3f}" in table
    assert "Not there" not in " ".join(page.sections.values())
    assert results["store"].root_digest in page.sections["store"]
    assert results["dvflnet"]["run_id"][:16] in page.sections["lineage"]
    assert page.images["curves"] == 3  # a chart that has no points is left out


def test_done_stays_done(
    config: ExperimentConfig, results: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store = run_cache_teacher(plan_cache(config), LOCAL)
    assert store.root_digest == results["store"].root_digest
    assert run_training(plan_student(config), LOCAL) == results["dvflnet"]
    printed = capsys.readouterr().out
    assert "sealed, nothing to do" in printed
    assert "trained already, nothing to do" in printed


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("views.seed=1", "views.seed: store 0, config 1"),
        ("views.num_views=1", "views.num_views: store 2, config 1"),
        ("clip.side=48", "clip.side: store 32, config 48"),
        ("teacher.precision=bfloat16", "teacher.precision: store float32, config bfloat16"),
    ],
)
@pytest.mark.parametrize("plan", [plan_cache, plan_student])
def test_another_store_is_refused_by_name(
    path: Path, results: Any, plan: Callable[..., Any], override: str, field: str
) -> None:
    with pytest.raises(FingerprintMismatch, match=field):
        plan(load_config(path, [override]))


@pytest.mark.chaos
def test_a_grown_store_is_run_where_it_has_grown_and_no_other_run_changes(
    config: ExperimentConfig, path: Path, results: Any, tmp_path: Path
) -> None:
    grown = load_config(path, ["views.num_views=3"])
    with pytest.raises(FingerprintMismatch, match=r"views\.num_views: store 2, config 3"):
        plan_student(grown)
    store = run_cache_teacher(plan_cache(grown), LOCAL)
    num_train = sum(
        record.split == "train" for record in read_manifest(config.manifest_uri).records
    )
    newest = find_runs(config.tracking_uri, "tiny", "tags.stage = 'cache_teacher'")[0]
    assert newest.data.metrics["cache/clips"] == num_train
    at_once = load_config(path, ["views.num_views=3", f"store.uri={tmp_path}/store"])
    assert run_cache_teacher(plan_cache(at_once), LOCAL).root_digest == store.root_digest
    run_doctor(grown, num_verified=3, json_uri=None)
    student = run_training(plan_student(grown), LOCAL)
    weights = files.join_uri(config.artefacts, "runs", student["name"], "last.safetensors")
    assert read_weights(weights).metadata["root_digest"] == store.root_digest
    assert run_training(plan_student(config), LOCAL) == results["dvflnet"]


def test_a_store_of_another_teacher_is_refused(
    config: ExperimentConfig, path: Path, results: Any, tmp_path: Path
) -> None:
    # The last weights of the student are a teacher of the same shape.
    runs = files.join_uri(config.artefacts, "runs", results["vflnet"]["name"])
    other = load_config(path, [f"teacher.weights={runs}/last.safetensors"])
    for plan in (plan_cache, plan_student):
        with pytest.raises(FingerprintMismatch, match=r"teacher\.weights_sha256"):
            plan(other)


def test_a_store_of_another_manifest_is_refused(
    config: ExperimentConfig, path: Path, results: Any
) -> None:
    before = files.read_bytes(config.manifest_uri)
    with suppress(TooManyFailedVideos):  # says so after the manifest was written
        run_index_videos(plan_index(load_config(path, ["dataset.min_frames=30"])), LOCAL)
    try:
        with pytest.raises(FingerprintMismatch, match=r"dataset\.manifest_digest"):
            plan_student(config)
    finally:
        files.write_bytes(config.manifest_uri, before)


def test_a_teacher_of_other_classes_is_refused(path: Path, results: Any) -> None:
    with pytest.raises((WeightsMismatch, DatasetError), match="class"):
        plan_index(load_config(path, ["dataset.num_classes=9"]))


def test_the_doctor_asks_the_live_teacher(
    config: ExperimentConfig, path: Path, results: Any, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    on_a_head = load_config(path, ["cluster.use_gpu=true"])  # where there is no GPU, on the CPU
    run_doctor(on_a_head, num_verified=9, json_uri=str(report))
    found = files.read_json(str(report))
    assert found["live"]["max_kl"] < 1e-5
    assert found["numerics"] == {"device": "cpu", "precision": "float32", "tf32": False}
    runs = files.join_uri(config.artefacts, "runs", results["vflnet"]["name"])
    other = load_config(path, [f"teacher.weights={runs}/last.safetensors"])
    with pytest.raises(StoreUnsound, match="live teacher"):
        run_doctor(other, num_verified=9, json_uri=None)


def test_a_bad_teacher_is_refused_before_the_seal_and_both_formats_hold_the_same(
    path: Path, results: Any, tmp_path: Path
) -> None:
    words = ["store.format=parquet", f"store.uri={tmp_path}/store"]
    with pytest.raises(WeightsMismatch, match=r"under teacher.min_top1 1"):
        run_cache_teacher(plan_cache(load_config(path, [*words, "teacher.min_top1=1"])), LOCAL)
    assert not files.exists(f"{tmp_path}/store/seal.json")
    other = run_cache_teacher(plan_cache(load_config(path, words)), LOCAL)
    assert other.spec.fingerprint == results["store"].spec.fingerprint
    ours, theirs = results["store"].read_all(), other.read_all()
    for name in ("logits", "logit_offset", "status", "view_digest", "frame_crc", "label"):
        assert (getattr(ours, name) == getattr(theirs, name)).all(), name

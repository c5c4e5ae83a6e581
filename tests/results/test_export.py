"""Real exports of a small student, run by the runtimes that they are for.

Those for ExecuTorch need what `make test-export` installs.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
import torch

from dvflnet.deployed import ClipClassifier
from examples import onnx_webcam
from pipeline.errors import ConfigError, ExportMismatch, WeightsMismatch
from pipeline.networks.trained import load_trained
from pipeline.results.costs import Latency, measure_latency
from pipeline.results.export import contract, executorch, onnx, pt2
from pipeline.results.export.contract import check_formats, contract_of
from pipeline.results.export.measured import NETWORK, Measured
from pipeline.results.prediction import Predictor, Windows
from pipeline.stages.export import _check, plan_export, run_export
from pipeline.storage.files import read_record, sha256_of
from tests.conftest import CLASS_NAMES, write_video
from tests.mlflow_server import find_runs
from tests.untrained_student import write_student

pytestmark = pytest.mark.timeout(900)  # the exporters are slow to start

ROOT = Path(__file__).parents[2]
ON_PHONES = {
    "executorch float32": ("student.pte", executorch),
    "executorch int8": ("student-int8.pte", executorch),
}
FILES = {
    "pt2 float32": ("student.pt2", pt2),
    "onnx float32": ("student.onnx", onnx),
    "onnx int8": ("student-int8.onnx", onnx),
}
with_executorch = [
    pytest.mark.export,
    pytest.mark.filterwarnings("ignore"),  # ExecuTorch and torchao warn of each other
]


def clips_of(count):
    return np.random.RandomState(count).randint(0, 256, (count, 4, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def config(dataset, tmp_path_factory):
    """An experiment whose student sees every second frame of its teacher's clips."""
    folder = tmp_path_factory.mktemp("export")
    config = dataset.config(
        folder / "artefacts",
        clip={"num_frames": 8, "motion_only": True},
        student={"variant": "nano", "embed_dim": 8, "depths": (1, 1, 1, 1), "num_frames": 4},
        tracking={"uri": f"sqlite:///{folder / 'mlflow.db'}"},
    )
    dataset.publish(config)
    return config


@pytest.fixture(scope="module")
def weights(config, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "last.safetensors"
    return write_student(config, path, CLASS_NAMES, seed=1)


def exported(config, weights, files):
    """The files, loaded, with their plan and the export's result."""
    formats = sorted({name.split()[0] for name in files})
    options = {"weights": weights, "formats": formats, "num_calibration_clips": 12}
    plan = plan_export(config, **options)
    torch.set_num_threads(1)
    result = run_export(plan)
    programs = {
        name: module.load(Path(plan.folder, file)) for name, (file, module) in files.items()
    }
    return SimpleNamespace(plan=plan, result=result, programs=programs, files=files)


@pytest.fixture(scope="module")
def export(config, weights):
    return exported(config, weights, FILES)


@pytest.fixture(scope="module", params=["others", pytest.param("phones", marks=with_executorch)])
def each(request, config, weights):
    if request.param == "phones":
        return exported(config, weights, ON_PHONES)
    return request.getfixturevalue("export")


@pytest.mark.parametrize("count", [1, 3, 8])
def test_any_batch_gets_the_logits_of_the_network(each, count):
    with torch.inference_mode():
        network = ClipClassifier(each.plan.trained.network, motion_only=True)
        expected = network(torch.from_numpy(clips_of(count))).numpy()
    for name, program in each.programs.items():
        found = program(clips_of(count))
        assert found.shape == expected.shape, name
        if name.endswith("float32"):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=name)
        else:  # noise leaves the ranges of the calibration now and then
            assert np.abs(found - expected).mean() < 0.25 * np.abs(expected).max(), name


def test_int8_is_smaller_and_not_the_same(each):
    *_, exact, int8 = each.files
    sizes = {name: entry["num_bytes"] for name, entry in each.result["files"].items()}
    assert sizes[int8] < 0.7 * sizes[exact]
    assert each.result["measured"][int8]["max_difference"] > 0
    assert not np.array_equal(each.programs[int8](clips_of(2)), each.programs[exact](clips_of(2)))


@pytest.mark.parametrize("shape", [(1, 5, 32, 32, 3), (1, 4, 64, 64, 3)])
def test_other_clips_are_refused(each, shape):
    for program in each.programs.values():
        with pytest.raises(Exception, match=r"(?i)expected|invalid|guard|error"):
            program(np.zeros(shape, np.uint8))


def read_metadata(path: Path) -> Mapping[str, str]:
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return dict(session.get_modelmeta().custom_metadata_map)
    if path.suffix == ".pt2":
        files = {"contract.json": ""}
        torch.export.load(path, extra_files=files)
        return json.loads(files["contract.json"])
    from executorch.runtime import Runtime

    (text,) = Runtime.get().load_program(path).load_method("contract").execute([])
    return json.loads(text)


def test_files_explain_themselves_and_say_nothing_of_this_machine(each):
    for file, module in each.files.values():
        path, batch = Path(each.plan.folder, file), "1" if module is executorch else "batch"
        metadata = read_metadata(path)
        assert {**metadata, **contract_of(each.plan.trained, batch)} == metadata
        assert json.loads(metadata["class_names"]) == list(CLASS_NAMES)
        assert metadata["input"].startswith(f"clip: uint8 ({batch}, 4, 32, 32, 3), RGB")
        assert "8 equal parts of the video, of these parts [0, 2, 5, 7]" in metadata["frames"]
        assert str(ROOT).encode() not in path.read_bytes()


def test_the_record_holds_what_lies_there(export):
    plan, result = export.plan, export.result
    assert read_record(f"{plan.folder}/export.json") == json.loads(json.dumps(result))
    for entry in result["files"].values():
        content = Path(plan.folder, entry["file"]).read_bytes()
        assert entry["num_bytes"] == len(content)
        assert entry["sha256"] == sha256_of(content)
    assert result["num_val_videos"] == len(plan.val_rows) == 4
    assert set(result["measured"]) == {NETWORK, *FILES}
    for values in result["measured"].values():
        assert values["top1"] * 4 == int(values["top1"] * 4)
        assert 0 < values["latency"]["p50_ms"] <= values["latency"]["p95_ms"]


def test_the_card_says_where_it_comes_from(export):
    plan = export.plan
    card = Path(plan.folder, "MODEL_CARD.md").read_text()
    for fact in (export.result["text"], plan.trained.digest, plan.manifest.digest, *CLASS_NAMES):
        assert fact in card
    assert "Teacher digest: not known here" in card
    assert "student-int8.onnx" in card


def test_the_run_has_the_files(config, export):
    runs = find_runs(config.tracking_uri, "tiny", "tags.stage = 'export'")
    (run,) = (run for run in runs if "onnx int8/top1" in run.data.metrics)
    assert run.info.status == "FINISHED"
    assert run.data.tags["exported.sha256"] == export.plan.trained.digest
    top1 = export.result["measured"]["onnx int8"]["top1"]
    assert run.data.metrics["onnx int8/top1"] == top1
    files = {file for file, _ in FILES.values()}
    artifacts = Path(unquote(run.info.artifact_uri.removeprefix("file://")))
    found = {path.name for path in (artifacts / "export").iterdir()}
    assert found == {*files, "MODEL_CARD.md", "export.json"}


def test_done_stays_done(export, capsys):
    assert run_export(export.plan) == json.loads(json.dumps(export.result))
    assert "exported already, nothing to do" in capsys.readouterr().out


def test_calibration_clips_are_of_train(export):
    plan = export.plan
    splits = {plan.manifest.records[row].split for row in plan.calibration_rows}
    assert splits == {"train"}
    assert len(set(plan.calibration_rows)) == 12


# --- what is refused ------------------------------------------------------------------------------


def test_a_file_that_computes_something_else_is_refused():
    latency = Latency(1.0, 1.0, 5)
    off = Measured(0.5, 1.0, 1.0, 0.1, latency)
    _check({"onnx int8": off})
    with pytest.raises(ExportMismatch, match=r"onnx float32 differs .* up to 0.5"):
        _check({"onnx float32": off})
    with pytest.raises(ExportMismatch):
        _check({"pt2 float32": Measured(float("nan"), 1.0, 1.0, 0.1, latency)})


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(contract.PACKAGES, "executorch", ("executorch_of_nobody",))
    with pytest.raises(ConfigError, match=r"executorch_of_nobody\. Run make install-export, or"):
        check_formats(["executorch"])
    assert check_formats([]) == ("pt2", "onnx")
    assert check_formats(["onnx", "pt2"]) == ("pt2", "onnx")
    with pytest.raises(ConfigError, match="no format 'tflite'; there are pt2, onnx, executorch"):
        check_formats(["tflite"])


def test_numbers_weights_and_classes_are_checked(config, weights, tmp_path):
    with pytest.raises(ConfigError, match="calibration-clips must be at least 1, got 0"):
        plan_export(config, weights=weights, formats=["pt2"], num_calibration_clips=0)
    with pytest.raises(WeightsMismatch, match=r"there is no weights file .*gone"):
        plan_export(config, weights=str(tmp_path / "gone.safetensors"), formats=["pt2"])
    other = write_student(config, tmp_path / "other.safetensors", ("A", "B", "C"), seed=0)
    with pytest.raises(WeightsMismatch, match="tells 3 classes apart"):
        plan_export(config, weights=other, formats=["pt2"])


def test_contract_of_whole_pictures(weights):
    trained = load_trained(weights)
    assert "centred square of 224/256" in contract_of(trained)["picture"]
    squashed = trained.recipe.policy.model_copy(update={"squash": True})
    whole = replace(trained, recipe=replace(trained.recipe, policy=squashed))
    assert "whole picture" in contract_of(whole)["picture"]


def test_latency_counts_calls():
    calls: list[int] = []
    found = measure_latency(lambda: calls.append(1))
    assert found.num_calls == len(calls) - 2 == 50
    assert found.p50_ms <= found.p95_ms


def test_the_example_for_a_camera_answers_as_the_pipeline_does(export, weights, tmp_path):
    student = onnx_webcam.Student(str(Path(export.plan.folder, "student.onnx")))
    video = write_video(tmp_path / "turned.mp4", 60, codec="libx264", quarter_turns=1)
    times, found = zip(*onnx_webcam.answers(student, str(video), 1.0, 0.5), strict=True)
    assert np.diff(times) == pytest.approx([0.52, 0.52])  # the next frame, at 25 a second
    with Predictor(load_trained(weights), windows=Windows(1.0, 0.52)) as predictor:
        expected = predictor.predict(str(video)).probabilities
    np.testing.assert_allclose(found, expected[: len(found)], atol=0.02)

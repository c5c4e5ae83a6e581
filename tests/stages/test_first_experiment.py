"""The experiment that jobs/distill.py writes for a folder of videos."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.errors import ConfigError, DatasetError
from pipeline.stages.first_experiment import directed_classes, find_experiment, first_experiment

CLASSES = ("Swipe_left", "Swipe_right", "Wave")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in CLASSES:
        for number in range(3):
            file = tmp_path / "no. #1: videos 😀" / name / f"{number}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"found by its name; probing comes later")
    return tmp_path / "no. #1: videos 😀"


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_each_preset_is_a_valid_experiment(root: Path, tmp_path: Path, preset: str) -> None:
    file = tmp_path / "run" / "experiment.yaml"
    choice: Any = preset
    more = root / "more"
    (more / "deeper").mkdir(parents=True)
    (more / "deeper" / "1.mp4").write_bytes(b"nobody said what it shows")
    text = first_experiment(str(root), file, choice, "/weights.safetensors", str(more), num_gpus=0)
    config = load_config(file, text=text)
    assert config.dataset.root == str(root)
    assert config.artefacts == str(tmp_path / "run" / "artefacts")
    assert config.dataset.unlabelled == str(more)
    assert config.teacher.weights == "/weights.safetensors"
    assert config.views.flip_probability == 0  # two classes are mirror images of each other


@pytest.mark.parametrize(
    ("num_gpus", "teacher", "preset"), [(0, "x", "small"), (8, None, "small"), (8, "x", "paper")]
)
def test_the_preset_fits_machine_and_data(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    num_gpus: int,
    teacher: str | None,
    preset: str,
) -> None:
    text = first_experiment(str(root), tmp_path / "e.yaml", teacher=teacher, num_gpus=num_gpus)
    said = capsys.readouterr().out
    assert f"preset {preset}: " in said
    assert "flips off, Swipe_left, Swipe_right: " in said
    config = load_config(tmp_path / "e.yaml", text=text)
    assert (config.cluster.use_gpu, config.cluster.num_teachers) == (num_gpus > 0, num_gpus or 1)


def test_a_file_that_is_there_is_kept(root: Path, tmp_path: Path) -> None:
    options: Any = {"preset": None, "teacher": None, "unlabelled": None}
    planned, text = find_experiment(str(root), out=str(tmp_path / "run"), **options)
    file = Path(planned)
    assert not file.parent.exists()  # the caller writes it
    file.parent.mkdir()
    assert text is not None
    edited = text + "tracking: {experiment: mine}\n"
    file.write_text(edited)
    assert find_experiment(str(root), out=str(tmp_path / "run"), **options) == (planned, None)
    assert file.read_text() == edited
    assert find_experiment(planned, out=None, **options) == (planned, None)
    with pytest.raises(ConfigError, match="on other videos"):
        find_experiment(str(root / "Wave"), out=str(tmp_path / "run"), **options)
    with pytest.raises(ConfigError, match="--out"):
        find_experiment(str(root), out=None, **options)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("given", "vidoes", "there is no folder of videos .*vidoes"),
        ("teacher", "weights.pth", "there is no teacher .*weights.pth"),
        ("teacher", "elsewhere", "--teacher .*elsewhere is a folder"),
        ("unlabelled", "no. #1: videos 😀/nowhere", "there is no folder .*nowhere"),
        ("unlabelled", "elsewhere", "elsewhere is not below dataset.root .*move it there"),
    ],
)
def test_what_is_not_there_is_said_before_anything_starts(
    root: Path, tmp_path: Path, option: str, value: str, words: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    options = {"given": str(root), "preset": None, "teacher": None, "unlabelled": None}
    options[option] = str(tmp_path / value)
    given: Any = options.pop("given")
    with pytest.raises(DatasetError, match=words):
        find_experiment(given, out=str(tmp_path / "run"), **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no folders of videos"):
        first_experiment(str(tmp_path), tmp_path / "e.yaml", num_gpus=0)


def test_class_names_with_a_direction() -> None:
    directed = ("SwipeLeft", "turn right", "rotate-clockwise", "Counterclockwise")
    plain = ("bright", "Leftovers", "Kick", "fright", "eastern")
    assert directed_classes([*directed, *plain]) == list(directed)

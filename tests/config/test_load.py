"""The schema of an experiment: every problem at once, in words that help."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config, parse_config, resolved_yaml
from pipeline.errors import ConfigError
from pipeline.stages.cluster import check_uris_survive

ROOT = Path(__file__).parents[2]
GOOD = """
artefacts: /artefacts
dataset: {name: toy, root: /videos, layout: folders, num_classes: 3}
"""
BAD = """
artefacts: /artefacts
dataset: {name: toy, rooot: /videos, layout: foldres, num_classes: 0}
views: {num_view: 4}
teacher:
  optim: {lr: fast}
  train: {epoch: 3}
stuednt: {variant: nano}
loss: {distill_weight: 1.5}
"""
# Dotted path and the words that must stand behind it, for every mistake in BAD.
MISTAKES = {
    "dataset.rooot": "did you mean 'root'?",
    "dataset.root": "is required",
    "dataset.layout": "'folders'",
    "dataset.num_classes": "found 0",
    "views.num_view": "did you mean 'num_views'?",
    "teacher.optim.lr": "found 'fast'",
    "teacher.train.epoch": "did you mean 'epochs'?",
    "stuednt": "did you mean 'student'?",
    "loss.distill_weight": "found 1.5",
}


@pytest.fixture
def load(tmp_path):
    """Load a config from text."""

    def load_text(text: str, *overrides: str) -> ExperimentConfig:
        path = tmp_path / "experiment.yaml"
        path.write_text(text)
        return load_config(path, overrides)

    return load_text


@pytest.fixture
def problems(load):
    """Return what a config is refused for, a line for every problem."""

    def refuse(text: str, *overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        title, *lines = str(caught.value).splitlines()
        assert "experiment.yaml" in title
        return [line.strip() for line in lines]

    return refuse


# --- mistakes -----------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once(problems):
    lines = problems(BAD)
    for key, words in MISTAKES.items():
        assert any(line.startswith(f"{key}: ") and words in line for line in lines), key
    assert len(lines) == len(MISTAKES)


def test_a_job_says_it_without_a_traceback(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "jobs/cache_teacher.py", str(path), "views.seeed=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        f"ConfigError: {path} with the command line's settings is not a valid experiment:"
    )
    assert "Traceback" not in done.stderr
    assert all(key in done.stderr for key in (*MISTAKES, "views.seeed"))
    # Of CPU, not of the clock, so that a busy machine does not fail.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=3", "override 'seed=3': which one? views.seed, train.seed"),
        ("loss.temperature=cold", "loss.temperature: Input should be a valid number"),
        ("loss.temperature=.nan", "loss.temperature: Input should be a finite number"),
        ("loss.temperature", "override 'loss.temperature' is not of the form section.key=value"),
        ("=3", "override '=3' is not of the form section.key=value"),
        ("artefacts.inner=3", "override 'artefacts.inner=3': artefacts holds a value, not a sec"),
        ("loss.temperature=[1", "override 'loss.temperature=[1'"),
        ("dataset.limits.max_frame=3", "did you mean 'max_frames'?"),
        ("views=3", "views: Input should be a valid dictionary"),
        ("train.batch_size=true", "train.batch_size: takes neither true nor false, found True"),
        ("optim.betas=[true, 0.9]", "optim.betas: takes neither true nor false"),
        ("store.clips_per_unit=true", "store.clips_per_unit: takes neither true nor false"),
    ],
)
def test_a_wrong_override(problems, override, words):
    assert words in problems(GOOD, override)[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "is not YAML"),
        ("\ta: 1", "is not YAML"),
        (GOOD + "artefacts: /twice\n", "artefacts given twice"),
        (GOOD + "loss: {temperature: 1, temperature: 2}\n", "temperature given twice"),
        ("- artefacts\n- dataset\n", "must hold sections, found ['artefacts', 'dataset']"),
        ("", "must hold sections, found None"),
        ("just text", "must hold sections, found 'just text'"),
        ("!!python/object/apply:os.system [true]", "is not YAML"),
        ("{[a, b]: c}", "is not YAML"),
        ("artefacts: 2026-02-30", "is not YAML"),
    ],
)
def test_a_file_that_holds_no_sections(load, text, words):
    with pytest.raises(ConfigError, match=r"experiment\.yaml") as caught:
        load(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("use", ["b: 1", "artefacts: *a11", "x: {y: *a11, y: *a11}"])
def test_nested_aliases_are_never_written_out(load, use):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match=r"experiment\.yaml") as caught:
        load("\n".join([*lines, use]))
    assert len(str(caught.value)) < 2000


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="there is no config file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(tmp_path / "binary.yaml")


CONTRADICTIONS = {
    "student.num_frames=3": "student.num_frames: 3 does not divide clip.num_frames 8",
    "views.max_area=0.01": "views.min_area: 0.08 is over views.max_area 0.01",
    "dataset.layout=ucf101": "dataset.annotations: is required for layout ucf101",
    "loss.dkd_beta=2": "loss.dkd_alpha, loss.dkd_beta: go with kind dkd, not with forward_kl",
    "teacher.init_weights=/w.pth": "teacher.init_weights: goes with init",
    "student.init=imagenet": "student.init_weights: goes with init",
    "train.epochs=20": "optim.warmup_epochs: 20.0 leaves nothing of train.epochs 20",
    "teacher.train.epochs=5": "teacher.optim.warmup_epochs: 20.0 leaves nothing",
}


def test_all_contradictions_are_told_at_once(problems):
    lines = problems(GOOD, *CONTRADICTIONS)
    for line, words in zip(lines, CONTRADICTIONS.values(), strict=True):
        assert line.startswith(words)


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1E-4", 1e-4), ("2.e1", 20.0), ("1_000.5", 1000.5)]
)
def test_numbers_are_numbers(load, text, value):
    assert load(GOOD + f"optim: {{lr: {text}}}\n").optim.lr == value
    assert load(GOOD, f"optim.lr={text}").optim.lr == value


def test_overrides_reach_every_depth_and_the_last_wins(load):
    config = load(
        GOOD,
        *("dataset.limits.max_frames=9", "teacher.depths=[1, 1, 1, 1]", "train.epochs=30"),
        *("train.epochs=40", "optim.lr_batch_size=null", "dataset.name=a=b"),
    )
    assert config.dataset.limits.max_frames == 9
    assert config.teacher.depths == (1, 1, 1, 1)
    assert config.train.epochs == 40
    assert config.optim.lr_batch_size is None
    assert config.dataset.name == "a=b"


def test_an_override_changes_one_of_two_shared_sections(load):
    config = load(GOOD + "teacher: {optim: &o {lr: 0.5}}\noptim: *o\n", "optim.lr=0.25")
    assert (config.teacher.optim.lr, config.optim.lr) == (0.5, 0.25)


@example(lr=1.0, area=1.0, seed=0, name="0E0")  # a text that reads as a number
@given(
    lr=st.floats(1e-300, 1e300),
    area=st.floats(1e-9, 1.0),
    seed=st.integers(),
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
)
@settings(max_examples=15)  # writing and reading a whole config takes a while
def test_the_resolved_config_loads_back_equal(tmp_path_factory, lr, area, seed, name):
    values = yaml.safe_load(GOOD) | {
        "optim": {"lr": lr},
        "views": {"min_area": area, "seed": seed},
        "student": {"depths": (1, 2, 3, 4), "num_frames": 4},
    }
    values["dataset"]["name"] = name
    config = ExperimentConfig.model_validate(values)
    path = tmp_path_factory.getbasetemp() / "resolved.yaml"
    path.write_text(resolved_yaml(config))
    assert load_config(path) == config


# --- places -------------------------------------------------------------------------------------


def test_relative_uris_become_absolute(load, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load(
        GOOD,
        *("artefacts=a", "dataset.root=~/videos", "dataset.annotations=lists/../l"),
        *("teacher.weights=w.pth", "store.uri=s3://bucket/store"),
    )
    assert config.artefacts == str(tmp_path / "a")
    assert config.dataset.root == "/home/somebody/videos"
    assert config.dataset.annotations == str(tmp_path / "l")
    assert config.teacher.weights == str(tmp_path / "w.pth")
    assert config.store_uri == "s3://bucket/store"
    assert config.manifest_uri == f"{tmp_path}/a/manifest.parquet"


def test_paths_of_a_file_are_relative_to_it_and_those_of_the_command_line_to_here(
    monkeypatch, tmp_path
):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x.yaml").write_text(
        "artefacts: ../a\ndataset: {name: d, root: videos, layout: folders, unlabelled: s3://b/c}\n"
        "teacher: {network: t.onnx, class_names: as_dataset, seen: [lists/x.txt]}\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("there/x.yaml", tmp_path / "there" / "x.yaml"):
        config = load_config(name, ["store.uri=s"])
        assert config.artefacts == str(tmp_path / "a")
        assert config.dataset.root == str(tmp_path / "there/videos")
        assert config.dataset.unlabelled == "s3://b/c"
        assert config.teacher.network == str(tmp_path / "there/t.onnx")
        assert config.teacher.class_names == "as_dataset"
        assert config.teacher.seen == (str(tmp_path / "there/lists/x.txt"),)
        assert config.store_uri == str(tmp_path / "s")
    assert load_config(tmp_path / "y.yaml", text=resolved_yaml(config)) == config
    assert config.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_artefacts_in_a_bucket_need_a_tracking_uri(load, problems):
    assert "tracking.uri: is required" in problems(GOOD, "artefacts=s3://bucket/a")[0]
    config = load(GOOD, "artefacts=s3://bucket/a", "tracking.uri=http://host:5000")
    assert config.tracking_uri == "http://host:5000"
    assert config.store_uri == "s3://bucket/a/store"


@pytest.fixture
def job_folder(monkeypatch, tmp_path) -> Path:
    """The folder that ``ray job submit`` unpacks and deletes."""
    folder = tmp_path / "job"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    return folder


@pytest.mark.parametrize(
    "overrides",
    [
        ["artefacts=a"],
        ["artefacts=/elsewhere", "store.uri=store"],
        ["artefacts=/elsewhere", "tracking.uri=sqlite:///{folder}/mlflow.db"],
    ],
)
def test_a_job_may_not_write_into_its_folder(load, job_folder, overrides):
    config = load(GOOD, *(word.format(folder=job_folder) for word in overrides))
    with pytest.raises(ConfigError, match="is deleted with it"):
        check_uris_survive(config)


def test_a_job_may_write_elsewhere_and_anywhere_outside_a_submission(load, job_folder, monkeypatch):
    check_uris_survive(load(GOOD, f"artefacts={job_folder}er/a", "tracking.uri=databricks"))
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    check_uris_survive(load(GOOD, "artefacts=a"))


@pytest.mark.parametrize(
    ("text", "read"),
    [("as_dataset", "as_dataset"), ("[run, swim]", ("run", "swim")), ("/l.txt", "/l.txt")],
)
def test_class_names_are_a_claim_a_list_or_a_file(text, read) -> None:
    words = ["artefacts=/a", "dataset.name=d", "dataset.root=/r", "dataset.layout=folders"]
    config = parse_config("{}", source="x", overrides=[*words, f"teacher.class_names={text}"])
    assert config.teacher.class_names == read

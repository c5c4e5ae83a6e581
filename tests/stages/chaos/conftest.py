"""An experiment that is indexed and has a teacher, and its undisturbed results."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.logits.store import open_store
from tests.mlflow_server import find_runs
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.trials import FORWARD, TRAIN_STEP, Trial, last_weights, new_folder
from tests.stages.conftest import index, write_teacher

NUM_UNITS = 12  # of four clips each
WORDS = (
    "store.clips_per_unit=4",
    "store.units_per_shard=4",
    "train.epochs=3",
    "cluster.num_decoders=1",
)
NUM_STEPS = 12  # four an epoch


@dataclass(frozen=True)
class Experiment:
    """What all trials start from."""

    path: Path
    manifest: Path
    teacher: Path
    empty_database: Path

    def caching(self, folder: Path, *words: str) -> Trial:
        """Return a trial of stage one."""
        return self._trial("cache_teacher", folder, FORWARD, *words)

    def training(self, folder: Path, store: str, *words: str) -> Trial:
        """Return a trial of stage two, on a store."""
        return self._trial("train_student", folder, TRAIN_STEP, f"store.uri={store}", *words)

    def sweeping(self, folder: Path, store: str, *words: str) -> Trial:
        """Return a trial of a sweep, on a store."""
        return self._trial("sweep", folder, TRAIN_STEP, f"store.uri={store}", *words)

    def _trial(self, job: str, folder: Path, counted: str, *words: str) -> Trial:
        new_folder(folder, self.manifest, self.empty_database)
        all_words = [
            *WORDS,
            f"artefacts={folder}/artefacts",
            f"teacher.weights={self.teacher}",
            *words,
        ]
        return Trial(job, self.path, folder, all_words, counted)


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory, write_experiment: Any) -> Experiment:
    folder = tmp_path_factory.mktemp("experiment")
    path = write_experiment(folder)
    config = load_config(path)
    index(config)
    teacher = folder / "teacher.safetensors"
    write_teacher(config, str(teacher))
    find_runs(f"sqlite:///{folder}/empty.db", "none")  # makes the tables
    return Experiment(path, Path(config.manifest_uri), teacher, folder / "empty.db")


@dataclass(frozen=True)
class Straight:
    """What undisturbed jobs end with."""

    store: str
    root_digest: str
    seconds: float  # that stage one took


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory, experiment: Experiment) -> Straight:
    trial = experiment.caching(tmp_path_factory.mktemp("straight") / "cache")
    started = time.monotonic()
    job = trial.finish()
    seconds = time.monotonic() - started
    assert job.num_calls == NUM_UNITS
    return Straight(trial.store, open_store(trial.store).root_digest, seconds)


@pytest.fixture(scope="session")
def straight_weights(
    tmp_path_factory: pytest.TempPathFactory, experiment: Experiment, straight: Straight
) -> str:
    """Digest of the student's last weights."""
    trial = experiment.training(tmp_path_factory.mktemp("straight") / "train", straight.store)
    job = trial.finish()
    assert job.num_calls == NUM_STEPS
    return last_weights(trial.folder)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if FIGURES:
        terminalreporter.section("chaos: what was tried and what it cost")
        terminalreporter.write_line(FIGURES.as_text())

"""Damage to any file that a command reads: it is refused by name, or changes nothing.

The functions run that a command consists of, without Ray, on an experiment of which one file is
damaged. A command stops with an error of ours that names the file or its artefact (found), or comes
to the same result as before (harmless). ``make chaos`` runs the long sizes; the counts of each
command are in the JUnit file.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dvflnet.weights import state_digest
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import PipelineError
from pipeline.frames import store as frame_store
from pipeline.frames.prepared import prepare_video
from pipeline.frames.source import read_source, read_videos
from pipeline.logits.generations import record_videos
from pipeline.logits.inheritance import find_donors, inherit_units
from pipeline.logits.journal import read_fragment
from pipeline.logits.spec import plan_store
from pipeline.logits.store import gather_shard, open_store, seal_logits
from pipeline.networks.teacher import check_teacher
from pipeline.networks.trained import load_trained
from pipeline.networks.weight_files import read_weights
from pipeline.stages.cache import plan_cache
from pipeline.stages.doctor import run_doctor
from pipeline.stages.evaluate import plan_evaluation
from pipeline.stages.index import plan_index
from pipeline.stages.prepare import plan_frames
from pipeline.storage.files import join_uri, read_record, sha256_of, write_record
from pipeline.storage.sealed.store import finished_units, open_for_writing
from pipeline.training.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from pipeline.training.plan import open_plan_mirror, plan_student
from pipeline.views.clip import clips_of
from tests.conftest import CLASS_NAMES, Dataset, real_cells
from tests.logits.imaginary import write_store
from tests.untrained_student import write_student

LONG = [pytest.mark.chaos, pytest.mark.timeout(3600)]
WEIGHTS, PUBLISHED = "student.safetensors", "teacher.pth"
FRAMES = {"source": "prepared", "num_candidates": 12, "short_side": 32, "videos_per_unit": 8}


def config_of(dataset: Dataset, folder: Path, **sections: Any) -> ExperimentConfig:
    defaults = {"frames": FRAMES | {"units_per_file": 2}, "views": {"num_views": 2}}
    return dataset.config(folder, **defaults | sections)


def with_section(config: ExperimentConfig, name: str, **settings: Any) -> ExperimentConfig:
    section = getattr(config, name).model_copy(update=settings)
    return config.model_copy(update={name: section})


def in_parquet(config: ExperimentConfig) -> ExperimentConfig:
    uri = join_uri(config.artefacts, "parquet")
    return with_section(config, "store", format="parquet", uri=uri)


@pytest.fixture(scope="module")
def experiment(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that stages leave, made without Ray."""
    folder = tmp_path_factory.mktemp("experiment") / "first"
    config = config_of(dataset, folder)
    dataset.publish(config)
    write_frames(config)
    teacher = folder / "teacher" / "last.safetensors"
    teacher.parent.mkdir()
    write_student(config, teacher, CLASS_NAMES, seed=1)
    manifest = read_source(config)
    digest = check_teacher(config, CLASS_NAMES)
    torch.save(read_weights(str(teacher)).state, folder / PUBLISHED)
    for each in (config, in_parquet(config)):
        spec = plan_store(each, manifest=manifest, teacher_digest=digest)
        write_store(
            each.store_uri, spec, manifest.records, lambda unit: real_cells(config, manifest, unit)
        )
        record_videos(each.store_uri, manifest)
    grow(config)
    write_student(config, folder / WEIGHTS, CLASS_NAMES, seed=2)
    files = plan_student(config).files
    weights = {"a": torch.randn(3, 4)}
    state = TrainingState(3, 1.5, torch.randn(4, 2), weights, {"state": {0: torch.ones(3)}})
    Path(files.folder, "epoch_0001").mkdir(parents=True)
    write_checkpoint(f"{files.folder}/epoch_0001", state, class_names=CLASS_NAMES, facts={})
    write_record(files.result, {"name": "x", "metrics": {"best/top1": 0.875, "train/seconds": 3}})
    summary = {"text": "top-1 0.875", "networks": {"x": {"top1": 0.875}}}
    write_record(f"{evaluation_of(config).folder}/summary.json", summary)
    return folder


def write_frames(config: ExperimentConfig) -> None:
    plan, limits = plan_frames(config), config.dataset.limits
    open_for_writing(plan.root, plan.spec)
    for unit in range(plan.spec.num_units):
        rows = plan.spec.unit_rows(unit)
        records = plan.videos.records[rows.start : rows.stop]
        videos = [prepare_video(record, limits, frames=config.frames) for record in records]
        frame_store.write_fragment(plan.root, plan.spec, unit, videos)
    seal_frames(config)


# --- what the commands do with files of ours --------------------------------------------------


def index(config: ExperimentConfig) -> Any:
    return plan_index(config).as_text()


def prepare(config: ExperimentConfig) -> Any:
    plan = plan_frames(config)
    if open_for_writing(plan.root, plan.spec) is None:
        seal_frames(config)
    return frame_store.open_frame_store(plan.root).root_digest


def seal_frames(config: ExperimentConfig) -> Any:
    """Gather from the journal and seal, as a job that goes on."""
    plan = plan_frames(config)
    numbers = range(plan.spec.num_files)
    files = [frame_store.gather_file(plan.root, plan.spec, number) for number in numbers]
    return frame_store.seal_frames(
        plan.root, plan.spec, files, videos=read_videos(config), provenance={}
    ).root_digest


def cache(config: ExperimentConfig) -> Any:
    plan = plan_cache(config)
    if open_for_writing(plan.root, plan.spec) is None:
        seal_cache(config)
    record_videos(plan.root, plan.manifest)
    return open_store(plan.root).root_digest


def cache_published(config: ExperimentConfig) -> Any:
    """The same teacher in a file that names no classes and has no digest of its own."""
    weights = join_uri(config.artefacts, PUBLISHED)
    return cache(with_section(config, "teacher", weights=weights, class_names="as_dataset"))


def grow(config: ExperimentConfig) -> Any:
    """Take over the cells of the store for one of more views."""
    plan = plan_cache(with_section(config, "views", num_views=3))
    open_for_writing(plan.root, plan.spec)
    record_videos(plan.root, plan.manifest)
    donors = find_donors(config.store_uri, plan.root, plan.spec, plan.manifest)
    found = [inherit_units(plan.root, plan.spec, shard, donors, set()) for shard in plan.shards]
    whole = [
        read_fragment(plan.root, plan.spec, unit)
        for unit in plan.units
        if unit.number in finished_units(plan.root)
    ]
    return found, [cells.logits.tobytes() for cells in whole]


def seal_cache(config: ExperimentConfig) -> Any:
    plan = plan_cache(config)
    entries = [
        entry
        for shard in plan.shards
        for entry in gather_shard(plan.root, plan.spec, shard, plan.records(shard.rows))
    ]
    return seal_logits(plan.root, plan.spec, entries, provenance={}).root_digest


def pixels(config: ExperimentConfig, views: list[tuple[Any, Any]]) -> list[bytes]:
    limits, side = config.dataset.limits, config.clip.side
    clips = [clips_of(record, [view], limits, side=side)[0] for record, view in views]
    return [clip.frames.tobytes() for clip in clips]


def train_first(config: ExperimentConfig) -> Any:
    """On a machine that has no mirror yet."""
    shutil.rmtree(join_uri(config.artefacts, "mirrors"), ignore_errors=True)
    return train(config)


def train(config: ExperimentConfig) -> Any:
    plan = plan_student(config)
    mirror = open_plan_mirror(plan)
    arrays = {
        k: sha256_of(v.tobytes()) for k, v in vars(mirror).items() if isinstance(v, np.ndarray)
    }
    requests = [request for step in plan.train_requests(0, 0) for request in step][:20]
    clips = pixels(config, [(request.record, request.view) for request in requests])
    state = read_checkpoint(plan.files.checkpoint("epoch_0001").folder)
    resumed = (state.step, state.seconds, state_digest({**state.weights, "v": state.val_logits}))
    return plan.key, arrays, clips, resumed, repr(state.optimiser), read_record(plan.files.result)


def evaluation_of(config: ExperimentConfig) -> Any:
    return plan_evaluation(config, checkpoints=[join_uri(config.artefacts, WEIGHTS)])


def evaluate(config: ExperimentConfig) -> Any:
    plan = evaluation_of(config)
    recipe = plan.networks[-1].recipe
    records = [plan.manifest.records[row] for row in plan.rows]
    clips = pixels(config, [(record, recipe.evaluation_view(record)) for record in records])
    digests = [state_digest(network.network.state_dict()) for network in plan.networks]
    return plan.key, clips, digests, read_record(join_uri(plan.folder, "summary.json"))


def predict(config: ExperimentConfig) -> Any:
    trained = load_trained(join_uri(config.artefacts, WEIGHTS))
    state = state_digest(trained.network.state_dict())
    return state, trained.class_names, trained.recipe, trained.config


def doctor(config: ExperimentConfig) -> Any:
    run_doctor(config, num_verified=0, json_uri=None)


@dataclass(frozen=True)
class Command:
    """What a command does, and patterns of the files that it reads, below the experiment."""

    run: Callable[[ExperimentConfig], Any]
    reads: tuple[str, ...]


SOURCE = ("manifest.parquet", "frames/*.json", "frames/manifest.parquet")
PIXELS, STORE = (*SOURCE, "frames/*.arrow"), ("store/*.json", "store/logits.zarr/**/*")
TEACHER = "teacher/*"
COMMANDS = {
    "index again": Command(index, ("manifest.parquet",)),
    "prepare again": Command(prepare, SOURCE),
    "prepare, sealing": Command(seal_frames, ("manifest.parquet", "frames/**/*")),
    "cache again": Command(cache, (*SOURCE, "store/*.json", TEACHER)),
    "cache again, published teacher": Command(cache_published, (*SOURCE, PUBLISHED)),
    "cache, sealing": Command(seal_cache, (*SOURCE, *STORE, "store/journal/*", TEACHER)),
    "cache, growing": Command(grow, (*STORE, "store/generations/**/*")),
    "train": Command(train_first, (*PIXELS, *STORE, TEACHER, "runs/**/*")),
    "train again": Command(train, ("store/*.json", "mirrors/**/*")),
    "evaluate": Command(evaluate, (*PIXELS, TEACHER, WEIGHTS, "evaluations/**/*")),
    "predict": Command(predict, (WEIGHTS,)),
    "doctor": Command(doctor, (*PIXELS, *STORE, "store/journal/*")),
    "doctor, Parquet": Command(lambda config: doctor(in_parquet(config)), ("parquet/**/*",)),
}


# --- the damage -----------------------------------------------------------------------------------


def flip(path: Path, draws: random.Random, files: list[Path]) -> None:
    content = bytearray(path.read_bytes())
    bit = draws.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    replace_file(path, bytes(content))


def truncate(path: Path, draws: random.Random, files: list[Path]) -> None:
    content = path.read_bytes()
    replace_file(path, content[: draws.randrange(len(content))])


def lose(path: Path, draws: random.Random, files: list[Path]) -> None:
    path.unlink()


def swap(path: Path, draws: random.Random, files: list[Path]) -> None:
    """Put another file in its place."""
    replace_file(path, draws.choice(files).read_bytes())


def add(path: Path, draws: random.Random, files: list[Path]) -> None:
    """Add files that belong to nothing."""
    for name in (f"{path.name}.tmp", "unit-000099.parquet"):
        shutil.copy(path, path.with_name(name))


def replace_file(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)  # a file that is mapped stays as it was
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "times"),
    [
        *((flip, 8), (truncate, 3), (lose, 2), (swap, 2), (add, 1)),
        pytest.param(flip, 200, marks=LONG),
        pytest.param(truncate, 64, marks=LONG),
        pytest.param(swap, 64, marks=LONG),
    ],
)
@pytest.mark.parametrize("name", COMMANDS)
def test_damage_is_found_or_harmless(
    name: str,
    damage: Callable[[Path, random.Random, list[Path]], None],
    times: int,
    experiment: Path,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    command, draws, missed, num_found = COMMANDS[name], random.Random(f"{name} {times}"), [], 0
    folder = experiment.rename(experiment.with_name("second"))

    def outcome() -> Any:
        monkeypatch.setattr("pipeline.training.plan.MIRRORS", folder / "mirrors")
        return command.run(config_of(dataset, folder))

    try:
        expected = outcome()
        found = {path for pattern in command.reads for path in folder.glob(pattern)}
        files = [path for path in found if path.is_file() and path.stat().st_size]
        names = sorted(path.relative_to(folder) for path in files)
        for number in range(times):
            # Files that are mapped or verified are remembered by their path.
            folder = folder.rename(experiment.with_name(f"{name} {number}"))
            files = [folder / relative for relative in names]
            path = draws.choice(files)
            content = path.read_bytes()
            damage(path, draws, files)
            try:
                if outcome() != expected:
                    missed.append(str(path))
            except (PipelineError, FileNotFoundError) as error:
                num_found += 1
                assert path.name in str(error) or str(folder) in str(error), error  # noqa: PT017
            replace_file(path, content)
            for extra in (f"{path.name}.tmp", "unit-000099.parquet"):
                path.with_name(extra).unlink(missing_ok=True)
    finally:
        folder.rename(experiment)
    harmless = times - num_found - len(missed)
    for what, count in (("found", num_found), ("harmless", harmless), ("missed", len(missed))):
        record_property(what, count)
    assert not missed

"""Decode, teacher, journal: a unit's way through stage one, without Ray."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import Manifest, VideoRecord
from pipeline.errors import Status, WeightsMismatch
from pipeline.logits.cells import Cells, centre, chosen
from pipeline.logits.journal import create_inherited, read_fragment
from pipeline.logits.spec import StoreSpec, Unit, plan_store, plan_units
from pipeline.networks.build import build_network
from pipeline.networks.teacher import TeacherPredictor, check_teacher
from pipeline.networks.weight_files import write_weights
from pipeline.stages.cache_steps import (
    TeacherActor,
    UnitDecoder,
    journal_unit,
    stack_clips,
    unit_block,
)
from pipeline.storage.sealed.store import fragment_name
from pipeline.views.clip import clips_of
from pipeline.views.loader import jitter_rows
from pipeline.views.view import build_view


@pytest.fixture(scope="module")
def config(dataset, tmp_path_factory) -> ExperimentConfig:
    """An experiment that has a teacher, if an untrained one."""
    config = dataset.config(tmp_path_factory.mktemp("units"))
    torch.manual_seed(3)
    network = build_network(config.teacher, num_classes=2, num_frames=4)
    for parameter in network.parameters():  # so that clips differ in their logits
        parameter.data += 0.1 * torch.randn_like(parameter)
    names = dataset.manifest.class_names
    write_weights(config.teacher_weights_uri, network.state_dict(), {}, class_names=names)
    return config


@pytest.fixture(scope="module")
def spec(config, dataset) -> StoreSpec:
    digest = check_teacher(config, dataset.manifest.class_names)
    return plan_store(config, manifest=dataset.manifest, teacher_digest=digest)


@pytest.fixture(scope="module")
def units(spec, dataset) -> list[Unit]:
    return plan_units(spec, dataset.manifest.records)


@pytest.fixture(scope="module")
def decoder(config, spec):
    decoder = UnitDecoder(config)
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def teacher(config, spec) -> TeacherActor:
    return TeacherActor(config, spec)


@pytest.fixture
def cache(decoder, teacher, spec, tmp_path):
    """Take a unit all the way; return its cells and the summary for the driver."""

    def run(unit: Unit, records, teacher: TeacherActor = teacher, root: Path = tmp_path):
        block = teacher(decoder(unit_block(unit, records)))
        (summary,) = journal_unit(block, str(root), spec).to_pylist()
        return read_fragment(str(root), spec, unit), summary

    return run


def records_of(manifest: Manifest, unit: Unit) -> list[VideoRecord]:
    return list(manifest.records[unit.rows.start : unit.rows.stop])


def same_cells(first: Cells, second: Cells, where=slice(None)) -> bool:
    return all(
        np.array_equal(values[where], getattr(second, name)[where])
        for name, values in vars(first).items()
    )


@pytest.mark.parametrize("number", [0, -1])  # of train with three views a video; of train and val
def test_a_unit_becomes_its_cells(number, config, dataset, units, cache):
    unit = units[number]
    records = records_of(dataset.manifest, unit)
    cells, summary = cache(unit, records)
    views = [
        build_view(config.views, record, index, num_frames=4)
        for record, indices in zip(records, unit.views, strict=True)
        for index in indices
    ]
    clips = [
        clips_of(dataset.manifest.records[row], [view], config.dataset.limits, side=32)[0]
        for row, view in zip(cells.row, views, strict=True)
    ]
    logits = TeacherPredictor(config, dataset.manifest.class_names).logits(
        np.stack([clip.frames for clip in clips]), jitter_rows(views)
    )
    centred, offset = centre(logits)
    assert cells.coordinates == unit.coordinates
    assert np.array_equal(cells.logits, centred)
    assert np.array_equal(cells.logit_offset, offset)
    assert cells.view_digest.tolist() == [view.digest for view in views]
    assert np.array_equal(cells.frame_crc, np.stack([clip.frame_crc for clip in clips]))
    assert len(np.unique(cells.logits.min(axis=1))) > 3
    labels = np.array([dataset.manifest.records[row].label for row in cells.row])
    assert summary["num_hits"] == (logits.argmax(axis=1) == labels).sum()
    assert summary["num_cells"] == summary["num_good"] == len(cells)
    assert summary["failures"] == []
    assert summary["teacher_seconds"] > 0


def damage_file(record: VideoRecord, folder: Path) -> VideoRecord:
    path = folder / "damaged.avi"
    path.write_bytes(Path(record.uri).read_bytes()[:-700])
    return replace(record, uri=str(path))


def damage_record(record: VideoRecord, folder: Path) -> VideoRecord:
    """As the index stage leaves a video that it could not read."""
    return replace(
        record, status=Status.UNREADABLE, reason="zero bytes", num_frames=0, width=0, height=0
    )


def remove_file(record: VideoRecord, folder: Path) -> VideoRecord:
    return replace(record, uri=str(folder / "gone.avi"))


@pytest.mark.parametrize(
    ("place", "spoil", "status", "words"),
    [
        (0, damage_file, Status.CHANGED, "is not the file that was indexed"),
        (1, damage_record, Status.UNREADABLE, "zero bytes"),
        (3, remove_file, Status.NOT_FOUND, "is not there"),
    ],
)
def test_a_bad_video_leaves_its_neighbours_as_they_are(
    place, spoil, status, words, dataset, units, cache, tmp_path
):
    unit, records = units[1], records_of(dataset.manifest, units[1])
    good, _ = cache(unit, records)
    records[place] = spoil(records[place], tmp_path)
    cells, summary = cache(unit, records, root=tmp_path / "bad")
    bad = cells.row == unit.rows[place]
    assert set(cells.status[bad]) == {status}
    assert not cells.logits[bad].any()
    assert not cells.frame_crc[bad].any()
    assert same_cells(cells, good, where=~bad)
    assert summary["num_good"] == len(cells) - bad.sum()
    assert len(summary["failures"]) == 1
    assert words in summary["failures"][0]
    assert records[place].sample_id in summary["failures"][0]


def test_a_unit_of_bad_videos_alone_is_journalled_too(dataset, units, cache, tmp_path):
    records = [damage_record(r, tmp_path) for r in records_of(dataset.manifest, units[0])]
    cells, summary = cache(units[0], records)
    assert set(cells.status) == {Status.UNREADABLE}
    assert (summary["num_good"], summary["num_hits"]) == (0, 0)


def test_bytes_do_not_depend_on_who_computes_them(config, spec, dataset, units, cache, tmp_path):
    unit, contents = units[-1], []
    for name in ("one", "two"):
        torch.rand(5)
        cache(unit, records_of(dataset.manifest, unit), TeacherActor(config, spec), tmp_path / name)
        contents.append((tmp_path / name / fragment_name(unit.number)).read_bytes())
    assert contents[0] == contents[1]


def test_a_clip_has_the_same_logits_in_any_company(config, dataset):
    frames = np.random.default_rng(0).integers(0, 256, (7, 4, 32, 32, 3), np.uint8)
    jitter = np.tile(np.array([256, 256, 256, 0, 0], np.int16), (7, 1, 1))
    teacher = TeacherPredictor(config, dataset.manifest.class_names)  # five clips a batch
    together = teacher.logits(frames, jitter)
    for clips in ([6], [5, 0], [3, 1, 4, 2, 0, 6]):
        assert np.array_equal(teacher.logits(frames[clips], jitter[clips]), together[clips])


def test_no_pixel_is_copied_on_its_way_to_the_batch(config, dataset, units, decoder):
    clips = decoder(unit_block(units[0], records_of(dataset.manifest, units[0])))
    frames, _ = stack_clips(clips[2:5], config)
    (chunk,) = clips.column("frames").chunks
    there = np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, *frames.shape[1:])
    assert np.shares_memory(frames, there)
    assert np.array_equal(frames, there[2:5])


def test_only_what_was_not_inherited_is_run(config, spec, dataset, units, cache, decoder, tmp_path):
    unit = units[-1]
    records = records_of(dataset.manifest, unit)
    whole, _ = cache(unit, records, root=tmp_path / "whole")
    inherited = chosen(whole, np.arange(len(whole)) % 3 != 0)
    create_inherited(str(tmp_path), spec, unit.number, inherited)
    clips = decoder(unit_block(unit, records, set(inherited.coordinates)))
    assert clips.num_rows == len(whole) - len(inherited)
    block = TeacherActor(config, spec)(clips)
    (summary,) = journal_unit(block, str(tmp_path), spec, inheriting=True).to_pylist()
    assert summary["num_cells"] == summary["num_good"] == clips.num_rows
    name = fragment_name(unit.number)
    assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_unit_that_is_run_twice_meets_its_own_file(dataset, units, cache):
    first, second = (cache(units[0], records_of(dataset.manifest, units[0])) for _ in range(2))
    assert same_cells(first[0], second[0])
    assert first[1]["sha256"] == second[1]["sha256"]


def test_jitter_of_every_frame_reaches_the_teacher(dataset, config, tmp_path):
    views = config.views.model_copy(update={"jitter_per_frame": True, "jitter_probability": 1.0})
    own = config.model_copy(update={"views": views})
    digest = check_teacher(own, dataset.manifest.class_names)
    spec = plan_store(own, manifest=dataset.manifest, teacher_digest=digest)
    unit = plan_units(spec, dataset.manifest.records)[-1]
    records = records_of(dataset.manifest, unit)
    own_decoder = UnitDecoder(own)
    clips = own_decoder(unit_block(unit, records))
    own_decoder.close()
    block = TeacherActor(own, spec)(clips)
    (summary,) = journal_unit(block, str(tmp_path), spec).to_pylist()
    assert summary["num_good"] == summary["num_cells"]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.0])
def test_what_a_broken_teacher_says_is_not_stored(value, config, spec, dataset, units, cache):
    teacher = TeacherActor(config, spec)
    head = teacher._teacher._network.network.head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(value)
    cells, summary = cache(units[0], records_of(dataset.manifest, units[0]), teacher)
    assert set(cells.status) == {Status.BAD_LOGITS}
    assert not cells.logits.any()
    assert summary["num_good"] == summary["num_hits"] == 0
    assert "NaN, infinity or a constant" in summary["failures"][0]


def test_a_teacher_that_was_replaced_after_the_plan_is_refused(config, spec):
    identity = {
        **spec.identity,
        "teacher": {**spec.identity["teacher"], "weights_sha256": "0" * 64},
    }
    teacher = TeacherActor(config, replace(spec, identity=identity))
    with pytest.raises(WeightsMismatch, match=r"other weights here than those .* expected 000000"):
        teacher(pa.table({}))

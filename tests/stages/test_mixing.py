"""Mixed clips, from stage one into a student's step, without Ray."""

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from pipeline.config.load import load_config
from pipeline.dataset.manifest import by_name, check_order
from pipeline.errors import ConfigError, DatasetError, Status, ViewMismatch
from pipeline.logits.examine import examine
from pipeline.logits.generations import record_videos
from pipeline.logits.inheritance import find_donors, inherit_units
from pipeline.logits.mirror import open_mirror
from pipeline.logits.store import gather_shard, open_store, seal_logits
from pipeline.networks.build import build_network
from pipeline.networks.teacher import TeacherPredictor
from pipeline.networks.weight_files import write_weights
from pipeline.stages.cache import CachePlan, _say_unmixed, plan_cache, unit_blocks
from pipeline.stages.cache_steps import TeacherActor, UnitDecoder, journal_unit
from pipeline.stages.doctor import _ask_teacher
from pipeline.storage.sealed.store import open_for_writing
from pipeline.training.inputs import mixing_of
from pipeline.training.loop import Worker, labels_of, run_worker
from pipeline.training.plan import plan_student, plan_teacher
from pipeline.training.proof import audit
from pipeline.training.train_plan import TrainPlan
from pipeline.views.loader import ClipLoader
from tests.stages.conftest import index

MIX = "views.mix={group_size: 8}"


def fill(plan: CachePlan) -> int:
    """Run all units and seal the store, as the stage does, but without Ray; return clips run."""
    open_for_writing(plan.root, plan.spec)
    record_videos(plan.root, plan.manifest)
    donors = find_donors(plan.config.store_uri, plan.root, plan.spec, plan.manifest)
    known = {
        unit: cells
        for shard in plan.shards
        for unit, cells in inherit_units(plan.root, plan.spec, shard, donors, set()).items()
    }
    teacher, num_run = TeacherActor(plan.config, plan.spec), 0
    with closing(UnitDecoder(plan.config)) as decoder:
        for block in unit_blocks(plan, [u for u in plan.units if u.number in known], known):
            logits = teacher(decoder(block))
            num_run += logits.num_rows
            journal_unit(logits, plan.root, plan.spec, inheriting=True)
    calls = [(plan.root, plan.spec, shard, plan.records(shard.rows)) for shard in plan.shards]
    entries = [entry for call in calls for entry in gather_shard(*call)]
    seal_logits(plan.root, plan.spec, entries, provenance={})
    return num_run


@pytest.fixture(scope="module")
def config(write_experiment, tmp_path_factory):
    path = write_experiment(tmp_path_factory.mktemp("mixed"))
    config = load_config(path, [MIX, "views.num_views=3", "store.clips_per_unit=24"])
    index(config)
    write_odd_teacher(config)
    fill(plan_cache(config))
    return config


def write_odd_teacher(config) -> None:
    """Write the weights of a teacher whose answers differ from clip to clip."""
    torch.manual_seed(3)
    network = build_network(config.teacher, num_classes=8, num_frames=4)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    write_weights(config.own_teacher_uri, network.state_dict(), {})


@pytest.fixture(scope="module")
def store(config):
    return open_store(config.store_uri)


@pytest.fixture(scope="module")
def plan(config):
    return plan_student(config)


@pytest.fixture(scope="module")
def mirror(config, tmp_path_factory):
    return open_mirror(config.store_uri, tmp_path_factory.mktemp("mirrors"))


def resized(plan: TrainPlan, size: int, num_workers: int = 1) -> TrainPlan:
    train = plan.recipe.train.model_copy(update={"batch_size": size})
    cluster = plan.config.cluster.model_copy(update={"num_workers": num_workers})
    config = plan.config.model_copy(update={"cluster": cluster})
    return replace(plan, config=config, recipe=replace(plan.recipe, train=train))


def batches_of(plan: TrainPlan):
    with ClipLoader(1, plan.config.dataset.limits, side=plan.recipe.side) as loader:
        yield from loader.batches(plan.train_requests(0, 0))


def answers(teacher: TeacherPredictor, batch, mixing) -> torch.Tensor:
    with torch.inference_mode():
        return teacher._network.exact_logits(batch.frames, batch.jitter, mixing)


def test_the_targets_are_the_teacher_s_answers_to_the_mixed_clips(config, plan, mirror):
    teacher, largest, mixed = TeacherPredictor(config, plan.manifest.class_names), 0.0, set()
    for batch in batches_of(plan):
        cells = [request.cell for request in batch.requests]
        cached = torch.from_numpy(mirror.teacher_logits(*map(list, zip(*cells, strict=True))))
        live = answers(teacher, batch, mixing_of(batch))
        largest = max(largest, float(kl(cached, live).max()))
        plain = answers(teacher, batch, None)[: len(cells)]
        for request, difference in zip(batch.requests, kl(cached, plain), strict=True):
            assert (difference > 2e-6) == (request.partner is not None), "mixing matters"
            mixed |= {request.cell} if request.partner else set()
    assert largest < 1e-4
    assert len(mixed) > 20
    assert {share_of(request) for request in mixed_requests(plan)} >= {"mixup", "cutmix"}


def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return KL(first || second) of logits, in nats, a row."""
    first, second = first.log_softmax(1), second.log_softmax(1)
    return (first.exp() * (first - second)).sum(1)


def mixed_requests(plan):
    return [r for step in plan.train_requests(0, 0) for r in step if r.partner is not None]


def share_of(request) -> str:
    return "cutmix" if request.view.mix.share == 2048 else "mixup"


def test_a_batch_decodes_each_clip_once(plan):
    batches = list(batches_of(resized(plan, 16)))  # an epoch: all pairs are whole
    assert all(len(batch.clips) == len(batch.requests) for batch in batches)


@pytest.fixture(scope="module")
def many(plan):
    """A plan of 384 videos, of which nothing is decoded: three epochs, a view in each."""
    video = next(record for record in plan.manifest.records if record.split == "train")
    records = tuple(replace(video, sample_id=f"{video.sample_id}-{n:03}") for n in range(384))
    manifest = replace(plan.manifest, records=by_name(records))
    train = plan.recipe.train.model_copy(update={"epochs": 3})
    recipe = replace(plan.recipe, train=train)
    return replace(plan, recipe=recipe, manifest=manifest, train_rows=tuple(range(384)))


@pytest.fixture(scope="module")
def one_by_one(many):
    return all_requests(resized(many, 4))


def all_requests(plan):
    """Return (cell, partner's cell, share and box) of every clip of all workers."""
    ranks = range(plan.num_workers)
    requests = [r for rank in ranks for step in plan.train_requests(0, rank) for r in step]
    return sorted((r.cell, r.partner and r.partner.cell, r.view.mix) for r in requests)


SIZES = (8, 24, 48, 96, 128)  # of the global batch
SHARED = [(size, workers) for size in SIZES for workers in (1, 2, 3, 8) if size % workers == 0]


@pytest.mark.parametrize(("size", "num_workers"), SHARED)
def test_what_is_mixed_with_what_depends_on_no_worker_and_no_batch(
    many, one_by_one, size, num_workers
):
    assert len(one_by_one) == 3 * 384
    assert all_requests(resized(many, size // num_workers, num_workers)) == one_by_one


def test_the_proof_covers_both_partners(plan, mirror, config):
    batch = next(batch for batch in batches_of(plan) if batch.mixing is not None)
    limits = config.dataset.limits
    assert audit(batch, mirror, limits) == len(batch.requests)
    place = next(i for i, request in enumerate(batch.requests) if request.partner is not None)
    request = batch.requests[place]
    other = replace(request.view, mix=replace(request.view.mix, share=request.view.mix.share - 2))
    wrong = [*batch.requests]
    wrong[place] = replace(request, view=other)
    with pytest.raises(ViewMismatch, match="or mixing are not those"):
        audit(replace(batch, requests=tuple(wrong)), mirror, limits)
    clips = [*batch.clips]
    there = batch.mixing.partners[place]
    clips[there] = replace(clips[there], frame_crc=clips[there].frame_crc + 1)
    only = [replace(r, prove=i == place) for i, r in enumerate(batch.requests)]
    with pytest.raises(ViewMismatch, match=request.partner.record.sample_id):
        audit(replace(batch, requests=tuple(only), clips=tuple(clips)), mirror, limits)


def test_the_doctor_finds_nothing_and_asks_the_teacher(config, store, plan):
    manifest = plan.manifest
    assert examine(store, manifest.records, config.views).findings == ()
    findings, figures = _ask_teacher(config, store, manifest, num_cells=20)
    assert (findings, figures["cells"]) == ([], 20)
    assert figures["max_kl"] < 1e-6


def test_the_partner_of_a_bad_video_stays_as_it_is(write_experiment, tmp_path, config, capsys):
    path = write_experiment(tmp_path)
    mine = load_config(path, [MIX, "views.num_views=3", "store.clips_per_unit=24"])
    index(mine)
    write_odd_teacher(mine)
    plan = plan_cache(mine)
    broken = next(r for r in plan.manifest.records if r.split == "train")
    gone = replace(broken, uri=broken.uri + ".gone")
    records = tuple(gone if r is broken else r for r in plan.manifest.records)
    fill(replace(plan, manifest=replace(plan.manifest, records=records)))
    store = open_store(mine.store_uri)
    status = store.read_all().status
    assert (status == Status.NOT_FOUND).sum() == 3
    assert examine(store, plan.manifest.records, mine.views).findings == ()
    student = plan_student(mine)
    assert len(student.without_pixels) == 3, "one video, three views"
    _say_unmixed(plan, student.without_pixels)
    assert capsys.readouterr().out.endswith(
        "3 clips are not mixed: their partners could not be decoded\n"
    )
    mirror = open_mirror(mine.store_uri, tmp_path / "mirrors")
    for batch in batches_of(student):
        audit(batch, mirror, mine.dataset.limits)
    assert len({r.cell for r in mixed_requests(student)}) < len(
        {r.cell for r in mixed_requests(plan_student(config))}
    )


def test_more_views_inherit_whole_rounds_and_end_in_the_same_store(
    write_experiment, tmp_path, store
):
    path, mix = write_experiment(tmp_path), [MIX, "store.clips_per_unit=24"]
    first, more = (load_config(path, [*mix, f"views.num_views={num}"]) for num in (2, 3))
    index(first)
    write_odd_teacher(first)
    assert fill(plan_cache(first)) == 2 * 16 + 8
    plan = plan_cache(more)
    assert fill(plan) == 16, "of the new view alone"
    assert open_store(plan.root).root_digest == store.root_digest


def test_a_video_that_is_lost_when_a_store_grows_leaves_its_partner_unmixed_there(
    write_experiment, tmp_path
):
    path, mix = write_experiment(tmp_path), [MIX, "store.clips_per_unit=24"]
    first, more = (load_config(path, [*mix, f"views.num_views={num}"]) for num in (2, 3))
    index(first)
    write_odd_teacher(first)
    fill(plan_cache(first))
    plan = plan_cache(more)
    lost = next(r for r in plan.manifest.records if r.split == "train")
    gone = replace(lost, uri=lost.uri + ".gone")
    records = tuple(gone if r is lost else r for r in plan.manifest.records)
    fill(replace(plan, manifest=replace(plan.manifest, records=records)))
    assert examine(open_store(plan.root), plan.manifest.records, more.views).findings == ()
    student = plan_student(more)
    assert {view for _, view in student.without_pixels} == {2}
    mirror = open_mirror(plan.root, tmp_path / "mirrors")
    for batch in batches_of(student):
        audit(batch, mirror, more.dataset.limits)


def test_labelled_videos_alone_cannot_be_learnt_from_mixed_clips(config):
    few = {"labels_per_class": 1, "learn_from": "labelled"}
    train = config.train.model_copy(update=few)
    with pytest.raises(ConfigError, match=r"mixed with those of videos without a label"):
        plan_student(config.model_copy(update={"train": train}))
    kept = config.model_copy(
        update={"train": config.train.model_copy(update={"labels_per_class": 1})}
    )
    assert "DVFL-Net (labelled)" not in kept.students


def test_an_alphabetical_manifest_is_refused(config, plan):
    old = replace(plan.manifest, records=by_name(plan.manifest.records))
    with pytest.raises(DatasetError, match=r"in alphabetical order.*Index the videos again"):
        check_order(old, config.manifest_uri)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss.kind=dkd"], "dkd needs one label a clip"),
        (["sweep.kinds=[dkd]"], "dkd needs one label a clip"),
        (["cluster.teacher_batch_size=3"], "teacher_batch_size: is even"),
        (["views.mix.alpha=1"], "views.mix.alpha: there is no such key; did you mean"),
        (["views.mix.group_size=1"], "greater than or equal to 2"),
    ],
)
def test_what_cannot_be_mixed_is_refused(write_experiment, tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write_experiment(tmp_path), ["views.mix={}", *words])


def test_students_and_teachers_learn(plan, config):
    run_worker(plan, Worker(torch.device("cpu")))
    teacher = plan_teacher(config)
    run_worker(teacher, Worker(torch.device("cpu")))
    assert any(request.partner for step in teacher.train_requests(0, 0) for request in step)


def test_labels_are_mixed_as_the_clips_are(plan):
    batch = next(batch for batch in batches_of(plan) if batch.mixing is not None)
    labels = labels_of(plan, batch)
    for request, row in zip(batch.requests, labels, strict=True):
        assert float(row.sum()) == pytest.approx(1.0)
        own = plan.labels([request.row])[0]
        if request.partner is None:
            assert row[own] == 1.0
        elif share_of(request) == "mixup" and plan.labels([request.partner.row])[0] != own:
            assert float(row[own]) == pytest.approx(request.view.mix.share / 2048)


def test_labels_alone_mix_among_the_labelled(config):
    train = config.train.model_copy(update={"labels_per_class": 1})
    plan = plan_student(config.baseline.model_copy(update={"train": train}))
    assert not plan.replays
    rows = {r.partner.row for r in mixed_requests(plan)}
    assert rows
    assert rows <= set(plan.learnt_rows)
    assert all(not r.prove for step in plan.train_requests(0, 0) for r in step)

"""The making of plans: rows that can be learnt from, their store, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import Manifest, check_order
from pipeline.errors import ConfigError, DatasetError, Status, StoreIncomplete
from pipeline.frames.source import read_source
from pipeline.logits.generations import open_experiment_store
from pipeline.logits.mirror import Mirror, open_mirror
from pipeline.logits.store import LogitStore
from pipeline.networks.build import init_digest
from pipeline.networks.foreign import examine
from pipeline.networks.recipe import Recipe, student_recipe, teacher_recipe
from pipeline.networks.teacher import teacher_digest
from pipeline.storage.files import exists
from pipeline.storage.locks import MIRRORS
from pipeline.training.train_plan import StoreReference, TrainPlan, check_labels
from pipeline.views.view import EVALUATION_VIEW


def plan_student(config: ExperimentConfig) -> TrainPlan:
    """Check the store and plan the student's run; starts nothing.

    StoreIncomplete if there is no sealed store, FingerprintMismatch if it was made from something
    else than the config names, DatasetError if no video of train, or none of val, is left.
    """
    manifest = read_source(config)
    # A student needs no weights of its teacher; where they are present, they are compared too.
    program = config.teacher.network if config.teacher.is_program else None
    there = exists(program or config.teacher_weights_uri)
    teacher = teacher_digest(config, manifest.class_names) if there else None
    store = open_experiment_store(config, manifest, teacher_digest=teacher)
    return _plan(config, student_recipe(config), manifest, store)


def plan_teacher(config: ExperimentConfig) -> TrainPlan:
    """Plan the teacher's run; starts nothing."""
    manifest = read_source(config)
    if config.views.mix is not None:
        check_order(manifest, config.manifest_uri)
    return _plan(config, teacher_recipe(config), manifest, store=None)


def vary_student(plan: TrainPlan, config: ExperimentConfig) -> TrainPlan:
    """Plan another student of the same store and rows: another loss, other training settings."""
    return replace(plan, config=config, recipe=student_recipe(config))


def own_students(config: ExperimentConfig) -> list[str]:
    """Return the weights of the experiment's students that are there, DVFL-Net the last.

    ``train.selection`` says of which epoch. StoreIncomplete if the experiment's student was not
    trained to its end.
    """
    student = plan_student(config)
    plans = [vary_student(student, arm) for arm in config.students.values()]
    uris = {plan.name: plan.selected for plan in plans}
    *_, (name, uri) = uris.items()
    if not exists(uri):
        raise StoreIncomplete(
            f"there is no {uri}: {name} was not trained yet. Run jobs/train_student.py with this "
            "config, or name its weights file."
        )
    return [uri for uri in uris.values() if exists(uri)]


def open_plan_mirror(plan: TrainPlan) -> Mirror | None:
    """Open this machine's copy of the store, if the run learns from one."""
    return open_mirror(plan.store.uri, MIRRORS) if plan.store else None


def _plan(
    config: ExperimentConfig, recipe: Recipe, manifest: Manifest, store: LogitStore | None
) -> TrainPlan:
    """Choose the rows that can be trained and evaluated on."""
    # By name, so that a run does not depend on where its videos stand in the manifest.
    train_rows, val_rows = (
        sorted(manifest.rows_of(split), key=lambda row: manifest.records[row].sample_id)
        for split in ("train", "val")
    )
    reference, without_pixels = None, frozenset[tuple[int, int]]()
    if store is not None:
        reference = StoreReference(
            uri=store.root,
            root_digest=store.root_digest,
            fingerprint=store.spec.fingerprint,
            teacher_digest=store.spec.teacher_digest,
            run_id=str(store.seal.provenance.get("run_id", "")),
        )
        mirror = open_mirror(store.root, MIRRORS)
        if config.views.mix is not None:
            without_pixels = _without_pixels(mirror, train_rows)
        train_rows = _with_logits(mirror, train_rows, list(range(config.views.num_views)))
        val_rows = _with_logits(mirror, val_rows, [EVALUATION_VIEW])
    for split, rows in (("train", train_rows), ("val", val_rows)):
        if not rows:
            raise DatasetError(f"{config.manifest_uri} has no good video of split {split}")
        left_out = len(manifest.rows_of(split, good=False)) - len(rows)
        if left_out:
            print(f"left out: {left_out} videos of {split} that are bad or have no teacher logits")
    plan = TrainPlan(
        config=config,
        recipe=recipe,
        manifest=manifest,
        train_rows=tuple(train_rows),
        val_rows=tuple(val_rows),
        store=reference,
        init_digest=init_digest(recipe.model),
        without_pixels=without_pixels,
    )
    check_labels(plan)
    if recipe.model.foreign:
        network, shape = plan.build_network().eval(), (recipe.clip_num_frames, recipe.side)
        examine(network, recipe.model.network, len(manifest.class_names), shape)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise ConfigError(f"{recipe.model.network} has no parameter that can be trained")
    return plan


def _without_pixels(mirror: Mirror, rows: list[int]) -> frozenset[tuple[int, int]]:
    """Return the (row, view_index) that stage one could not decode: partners stayed unmixed."""
    status = mirror.status[rows][:, :-1]  # without the evaluation view, which is the last
    found = np.argwhere(~np.isin(status, [Status.GOOD, Status.BAD_LOGITS])).tolist()
    return frozenset((rows[place], slot) for place, slot in found)


def _with_logits(mirror: Mirror, rows: list[int], view_indices: list[int]) -> list[int]:
    """Keep the rows whose views all have logits."""
    slots = mirror.spec.slots(view_indices)
    return [row for row in rows if (mirror.status[row, slots] == Status.GOOD).all()]

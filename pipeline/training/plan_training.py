"""From an experiment to a planned training run: the store is checked, and the rows are chosen."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config.load import ExperimentConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import DatasetError, Status, StoreIncomplete
from pipeline.frames.sources import read_source
from pipeline.logits.generations import find_generation, read_spec
from pipeline.logits.identity import build_identity
from pipeline.logits.mirror import Mirror, open_mirror
from pipeline.networks.build import init_digest
from pipeline.networks.recipe import Recipe, student_recipe, teacher_recipe
from pipeline.networks.teacher import teacher_digest
from pipeline.storage.files import exists, join_uri
from pipeline.storage.locks import MIRRORS
from pipeline.training.plan import TrainPlan
from pipeline.views.view import EVALUATION_VIEW

WEIGHTS = "last.safetensors"  # as published; the best epoch was chosen by looking at val


def plan_student(config: ExperimentConfig) -> TrainPlan:
    """Check the store and plan the student's run; starts nothing."""
    manifest = read_source(config)
    mirror = open_mirror(_find_store(config, manifest), MIRRORS)
    return plan_training(config, student_recipe(config), manifest, mirror)


def vary_student(plan: TrainPlan, config: ExperimentConfig) -> TrainPlan:
    """Plan another student of the same store and rows, without opening and checking them again.

    Args:
        plan: of a student.
        config: the same experiment, but for the loss and the settings of training.

    """
    return replace(plan, config=config, recipe=student_recipe(config))


def plan_teacher(config: ExperimentConfig) -> TrainPlan:
    """Plan the teacher's run; starts nothing."""
    manifest = read_source(config)
    return plan_training(config, teacher_recipe(config), manifest, mirror=None)


def own_students(config: ExperimentConfig) -> list[str]:
    """Return the weights of the experiment's students, VFL-Net (if there is one) and DVFL-Net.

    Raises:
        StoreIncomplete: if the experiment's student was not trained to its end.

    """
    student = plan_student(config)
    uris = {
        plan.name: join_uri(plan.folder, WEIGHTS)
        for plan in (vary_student(student, config.baseline), student)
    }
    *_, (name, uri) = uris.items()
    if not exists(uri):
        raise StoreIncomplete(
            f"there is no {uri}: {name} was not trained yet. Run jobs/train_student.py with this "
            "config, or name its weights file."
        )
    return [uri for uri in uris.values() if exists(uri)]


def plan_training(
    config: ExperimentConfig, recipe: Recipe, manifest: Manifest, mirror: Mirror | None
) -> TrainPlan:
    """Choose the rows that can be trained and evaluated on.

    Raises:
        DatasetError: if no video of train, or none of val, is left.

    """
    train_rows, val_rows = manifest.rows_of("train"), manifest.rows_of("val")
    if mirror is not None:
        train_rows = _with_logits(mirror, train_rows, list(range(recipe.num_views)))
        val_rows = _with_logits(mirror, val_rows, [EVALUATION_VIEW])
    for split, rows in (("train", train_rows), ("val", val_rows)):
        if not rows:
            raise DatasetError(f"{config.manifest_uri} has no good video of split {split}")
        left_out = len(manifest.rows_of(split, good=False)) - len(rows)
        if left_out:
            print(f"left out: {left_out} videos of {split} that are bad or have no teacher logits")
    return TrainPlan(
        config=config,
        recipe=recipe,
        manifest=manifest,
        train_rows=tuple(train_rows),
        val_rows=tuple(val_rows),
        root_digest="" if mirror is None else mirror.root_digest,
        store_uri="" if mirror is None else mirror.store_uri,
        init_digest=init_digest(recipe.model),
    )


def _find_store(config: ExperimentConfig, manifest: Manifest) -> str:
    """Return the URI of the generation that the config names; refuse anything else.

    The teacher's weights need not be here to train a student; where they are, they are checked too.
    """
    here = exists(config.teacher_weights_uri)
    digest = teacher_digest(config) if here else read_spec(config.store_uri).teacher_digest
    identity = build_identity(config, manifest=manifest, teacher_digest=digest)
    return find_generation(config.store_uri, identity)


def _with_logits(mirror: Mirror, rows: list[int], view_indices: list[int]) -> list[int]:
    """Keep the rows whose views all have logits."""
    slots = mirror.spec.slots(view_indices)
    return [row for row in rows if (mirror.status[row, slots] == Status.GOOD).all()]

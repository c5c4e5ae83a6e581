"""A worker of Ray Train, and the copy of the record that Ray Train keeps of a run.

Ray Train writes its record, the snapshot, in place, and refuses to start on half of it. A kill or a
full disk in the middle would lose a whole run, whose checkpoints are all there. So every snapshot
that was written is copied, whole or not at all. The copy is at most one report behind and names
only checkpoints that exist, because Ray deletes those that a snapshot leaves out after writing it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from pipeline.config.load import resolved_yaml
from pipeline.errors import PipelineError
from pipeline.stages.follower import ReportingWorker
from pipeline.storage.arrow import arrow_filesystem
from pipeline.storage.files import exists, is_local, read_bytes, write_bytes
from pipeline.training.checkpoint import (
    RunFiles,
    TrainingState,
    checkpoint_name,
    read_checkpoint,
    write_checkpoint,
)
from pipeline.training.loop import EpochResult, run_worker
from pipeline.training.plan import TrainPlan
from pipeline.training.step import Training

T = TypeVar("T")


def work(setup: dict[Any, Any]) -> Any:
    """Train in one process of Ray Train, from the run's last checkpoint if there is one."""
    import ray.train

    plan: TrainPlan = setup["plan"]
    checkpoint = ray.train.get_checkpoint()
    state = None
    if checkpoint is not None:
        state = read_checkpoint(plan.files.checkpoint(checkpoint.path).folder)
    try:
        run_worker(plan, RayWorker(plan, setup["queue"]), state=state)
    except PipelineError as error:
        if plan.num_workers > 1:
            raise  # the other workers wait for this one; Ray Train must end them
        return error  # a restart would only meet it again
    return None


class RayWorker(ReportingWorker):
    """One of the workers of Ray Train. Rank 0 reports and writes the checkpoints."""

    def __init__(self, plan: TrainPlan, queue: Any) -> None:
        import ray.train.torch

        super().__init__(ray.train.torch.get_device(), plan.name, queue)
        self.rank = ray.train.get_context().get_world_rank()
        self._plan = plan

    def wrap(self, network: nn.Module) -> nn.Module:
        import ray.train.torch

        wrapped: nn.Module = ray.train.torch.prepare_model(network)
        return wrapped

    def say(self, text: str) -> None:
        if self.rank == 0:
            super().say(text)

    def gather(self, value: T) -> list[T]:
        if self._plan.num_workers == 1:
            return [value]
        values: list[Any] = [None] * self._plan.num_workers
        torch.distributed.all_gather_object(values, value)
        return values

    def advance(self, step: int) -> None:
        if self.rank == 0:
            super().advance(step)

    def report(self, epoch: EpochResult, training: Training) -> None:
        """Report through Ray Train, whose controller passes the report on once it is recorded."""
        import ray.train

        name, checkpoint = checkpoint_name(epoch.epoch), None
        if self.rank == 0:
            folder = self._plan.files.checkpoint(name).folder
            self._write(folder, epoch, training)
            filesystem, path = arrow_filesystem(folder)
            checkpoint = ray.train.Checkpoint(path, filesystem)
        ray.train.report(
            epoch.as_report(),
            checkpoint=checkpoint,
            checkpoint_dir_name=name,
            checkpoint_upload_fn=lambda written, _: written,  # it is where Ray looks for it
        )

    def _write(self, folder: str, epoch: EpochResult, training: Training) -> None:
        state = TrainingState(
            step=epoch.step,
            seconds=epoch.seconds,
            val_logits=epoch.val_logits,
            weights=training.weights,
            optimiser=training.optimiser.state_dict(),
        )
        facts = {
            "run": self._plan.name,
            "epoch": str(epoch.epoch),
            "root_digest": self._plan.root_digest,
            "config": resolved_yaml(self._plan.config),
        }
        names = self._plan.manifest.class_names
        write_checkpoint(folder, state, class_names=names, facts=facts)


def has_started(files: RunFiles) -> bool:
    """Return whether Ray Train has recorded a report of a run."""
    return exists(files.snapshot)


def keep_snapshot(files: RunFiles) -> None:
    """Copy a run's snapshot. In an object store it needs no copy: files appear there whole."""
    if is_local(files.folder):
        write_bytes(files.snapshot_copy, read_bytes(files.snapshot))


def mend_snapshot(files: RunFiles) -> None:
    """Replace half a snapshot by its copy, before Ray Train starts.

    Half of the first one has no copy and is deleted; nothing was reported before it.
    """
    snapshot, copy = Path(files.snapshot), Path(files.snapshot_copy)
    if not is_local(files.folder) or not snapshot.exists():
        return
    if _is_whole(snapshot):
        keep_snapshot(files)  # a kill may have come between the snapshot and its copy
    elif copy.exists():
        write_bytes(str(snapshot), copy.read_bytes())
    else:
        snapshot.unlink()


def _is_whole(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True

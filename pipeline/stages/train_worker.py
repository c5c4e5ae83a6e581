"""What Ray Train runs in each worker: network and state in place, then the loop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline.config.load import resolved_yaml
from pipeline.errors import PipelineError
from pipeline.networks.build import start_network
from pipeline.storage.files import exists, is_local, join_uri, read_bytes, write_bytes
from pipeline.training.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from pipeline.training.loop import EpochResult, train
from pipeline.training.plan import TrainPlan, build_training, fresh_network, open_plan_mirror
from pipeline.training.step import Training

T = TypeVar("T")
NEWS_SECONDS = 2.0  # between two words on how far training is


def work(setup: dict[Any, Any]) -> Any:
    """What Ray Train runs in each worker."""
    import ray.train
    import ray.train.torch

    plan: TrainPlan = setup["plan"]
    torch.set_num_threads(plan.config.cluster.worker_threads)
    network = fresh_network(plan)
    resumed = _last_state(plan)
    if resumed is not None:
        network.load_state_dict(dict(resumed.weights))
    elif (report := start_network(network, plan.recipe.model)) is not None:
        setup["news"].put({"step": 0, "text": report.as_text()})
    training = build_training(
        plan, ray.train.torch.prepare_model(network), ray.train.torch.get_device()
    )
    if resumed is not None:
        training.optimiser.load_state_dict(resumed.optimiser)
    place = RayPlace(
        plan, network, training, setup["news"], seconds_before=resumed.seconds if resumed else 0.0
    )
    try:
        train(
            plan,
            training,
            place,
            mirror=open_plan_mirror(plan),
            first_step=resumed.step if resumed else 0,
        )
    except PipelineError as error:
        if plan.num_workers > 1:
            raise  # the other workers wait for this one; Ray Train must end them
        return error  # a restart would only meet it again
    return None


def _last_state(plan: TrainPlan) -> TrainingState | None:
    """Return the state of the run's last checkpoint, if there is one."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    return None if checkpoint is None else read_checkpoint(plan.checkpoint_uri(checkpoint.path))


class RayPlace:
    """A worker's place among the workers of Ray Train."""

    def __init__(
        self,
        plan: TrainPlan,
        network: torch.nn.Module,
        training: Training,
        news: Any,
        *,
        seconds_before: float,
    ) -> None:
        import ray.train

        self.rank: int = ray.train.get_context().get_world_rank()
        self._plan, self._network, self._training = plan, network, training
        self._news, self._seconds = news, seconds_before
        self._said = time.monotonic()

    def gather(self, value: T) -> list[T]:
        """Return the values of all workers, in the order of their ranks."""
        if self._plan.num_workers == 1:
            return [value]
        values: list[Any] = [None] * self._plan.num_workers
        torch.distributed.all_gather_object(values, value)
        return values

    def advance(self, step: int) -> None:
        """Tell the driver, now and then, how far rank 0 is."""
        if self.rank == 0 and time.monotonic() - self._said > NEWS_SECONDS:
            self._said = time.monotonic()
            self._news.put({"step": step})

    def report(self, result: EpochResult) -> None:
        """Report to the driver; rank 0 adds a checkpoint."""
        import ray.train

        self._seconds += result.seconds
        metrics = {
            "epoch": result.epoch,
            "step": result.step,
            "points": result.points,
            "seconds": self._seconds,
            **result.val,
        }
        name = f"epoch_{result.epoch:04d}"
        checkpoint = None
        if self.rank == 0:
            uri = self._plan.checkpoint_uri(name)
            self._write(uri, result)
            checkpoint = ray.train.Checkpoint(uri)
        ray.train.report(
            metrics,
            checkpoint=checkpoint,
            checkpoint_dir_name=name,
            checkpoint_upload_fn=lambda written, _: written,  # it is where Ray looks for it
        )

    def _write(self, uri: str, result: EpochResult) -> None:
        state = TrainingState(
            step=result.step,
            seconds=self._seconds,
            val_logits=result.val_logits,
            weights=self._network.state_dict(),
            optimiser=self._training.optimiser.state_dict(),
        )
        facts = {
            "run": self._plan.name,
            "epoch": str(result.epoch),
            "root_digest": self._plan.root_digest,
            "config": resolved_yaml(self._plan.config),
        }
        names = self._plan.manifest.class_names
        write_checkpoint(uri, state, class_names=names, facts=facts)


# FOLDED stages/train_snapshot
# A copy of the file in which Ray Train keeps what has been reported: its snapshot.
#
# Ray Train writes it in place, and refuses to start on half of it. A kill or a full disk in the
# middle would therefore lose a whole run, whose checkpoints are all there. So each snapshot
# that was
# written is copied, whole or not at all. The copy is at most one report behind, and names only
# checkpoints that exist: those that a new snapshot leaves out are deleted after it was written.


SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's name for it
COPY = "snapshot.json"


def has_started(folder: str) -> bool:
    """Return whether Ray Train has reported anything in a run's folder."""
    return exists(join_uri(folder, SNAPSHOT))


def keep_snapshot(folder: str) -> None:
    """Copy the snapshot of a run's folder. An object store publishes whole files: no need there."""
    if is_local(folder):
        write_bytes(f"{folder}/{COPY}", read_bytes(f"{folder}/{SNAPSHOT}"))


def mend_snapshot(folder: str) -> None:
    """Before a start: put the copy in the place of half a snapshot.

    Half of the first one is deleted; nothing was reported before it.
    """
    snapshot, copy = Path(folder, SNAPSHOT), Path(folder, COPY)
    if not is_local(folder) or not snapshot.exists():
        return
    if _whole(snapshot):
        keep_snapshot(folder)  # whoever died may not have come to that
    elif copy.exists():
        write_bytes(str(snapshot), copy.read_bytes())
    else:
        snapshot.unlink()


def _whole(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True

"""The workers of training runs in Ray's processes, and the follower of their reports in the driver.

Only the driver talks to MLflow, so workers put messages into a queue of Ray's. A message is a dict
that names its ``run``. It may hold the number of finished steps (``step``), a text to show
(``text``), an evaluated epoch (what ``EpochResult.as_report`` returns), or the error that ended the
run (``failure``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from pipeline.config.load import resolved_yaml
from pipeline.errors import PipelineError
from pipeline.networks.foreign import source_digest
from pipeline.networks.weight_files import SOURCE
from pipeline.storage.arrow import arrow_filesystem
from pipeline.tracking.progress import Progress
from pipeline.training.checkpoint import (
    TrainingState,
    checkpoint_name,
    read_checkpoint,
    write_checkpoint,
)
from pipeline.training.loop import EpochResult, Worker, run_worker
from pipeline.training.step import Training
from pipeline.training.train_plan import TrainPlan

STEP_SECONDS = 2.0  # between two messages of finished steps
Message = dict[str, Any]
T = TypeVar("T")


class Follower:
    """A thread that shows the progress of runs and passes their messages on.

    ``receive`` is called for every message, in the order of its run. What it raises does not end
    the following of other runs; the first error is raised on leaving.
    """

    def __init__(
        self, title: str, num_steps: int, receive: Callable[[Message, Progress], None]
    ) -> None:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # On the driver's node: any other may be taken away, and every message with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.queue: Any = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self._progress = Progress(title, num_steps, "steps")
        self._receive = receive
        self._steps: dict[str, int] = {}
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.queue.put(None)
        self._thread.join()
        self.queue.shutdown()
        if self._error is not None and error is None:
            raise self._error

    def _follow(self) -> None:
        with self._progress as progress:
            while (message := self.queue.get()) is not None:
                if "step" in message:
                    self._steps[message["run"]] = message["step"]
                    progress.reach(sum(self._steps.values()))
                if "text" in message:
                    progress.say(message["text"])
                try:
                    self._receive(message, progress)
                except Exception as error:
                    self._error = self._error or error


class ReportingWorker(Worker):
    """The only worker of a run, which reports to the driver and keeps no checkpoints."""

    def __init__(self, device: torch.device, run: str, queue: Any) -> None:
        super().__init__(device)
        self._run, self._queue = run, queue
        self._last_message = time.monotonic()

    def say(self, text: str) -> None:
        self._tell({"text": text})

    def advance(self, step: int) -> None:
        if time.monotonic() - self._last_message > STEP_SECONDS:
            self._last_message = time.monotonic()
            self._tell({"step": step})

    def report(self, epoch: EpochResult, training: Training) -> None:
        self._tell(epoch.as_report())

    def _tell(self, message: Message) -> None:
        if self.rank == 0:
            self._queue.put({"run": self._run, **message})


def work(setup: dict[Any, Any]) -> Any:
    """Train in one process of Ray Train, from the run's last checkpoint if there is one."""
    import ray.train

    plan: TrainPlan = setup["plan"]
    state = None
    if (checkpoint := ray.train.get_checkpoint()) is not None:
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

    def gather(self, value: T) -> list[T]:
        if self._plan.num_workers == 1:
            return [value]
        values: list[Any] = [None] * self._plan.num_workers
        torch.distributed.all_gather_object(values, value)
        return values

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
        optimiser = training.optimiser.state_dict()
        state = TrainingState(
            epoch.step, epoch.seconds, epoch.val_logits, training.weights, optimiser
        )
        facts = {
            "run": self._plan.name,
            "epoch": str(epoch.epoch),
            "root_digest": self._plan.root_digest,
            "config": resolved_yaml(self._plan.config),
        }
        model = self._plan.recipe.model
        if model.foreign:
            facts[SOURCE] = source_digest(model.network)
        names = self._plan.manifest.class_names
        write_checkpoint(folder, state, class_names=names, facts=facts)

"""One worker of a training run: network and optimiser set up, the state loaded, then the loop."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from pipeline.networks.build import start_network
from pipeline.training.checkpoint import TrainingState
from pipeline.training.loop import EpochResult, Worker, train
from pipeline.training.plan import TrainPlan, open_plan_mirror
from pipeline.training.step import Training

T = TypeVar("T")


def run_worker(plan: TrainPlan, worker: Worker, *, state: TrainingState | None = None) -> None:
    """Train to the end, from a checkpoint's state or else from the plan's first weights.

    Raises:
        WeightsMismatch: if the weights that training starts from do not fit the network.
        ViewMismatch, TrainingDiverged, VideoDecodeError: as ``train``.

    """
    torch.set_num_threads(plan.config.cluster.worker_threads)
    torch.manual_seed(plan.recipe.train.seed)
    network = plan.build_network()
    if state is not None:
        network.load_state_dict(dict(state.weights))
    elif (report := start_network(network, plan.recipe.model)) is not None:
        worker.say(report.as_text())
    training = Training(worker.wrap(network), plan.recipe, plan.schedule, worker.device)
    if state is not None:
        training.optimiser.load_state_dict(state.optimiser)
    train(
        plan,
        training,
        worker,
        mirror=open_plan_mirror(plan),
        first_step=state.step if state else 0,
        seconds=state.seconds if state else 0.0,
    )


class LoneWorker:
    """The only worker of a run; it keeps no checkpoints and reports to no one."""

    rank = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wrap(self, network: nn.Module) -> nn.Module:
        return network.to(self.device)

    def say(self, text: str) -> None:
        pass

    def gather(self, value: T) -> list[T]:
        return [value]

    def advance(self, step: int) -> None:
        pass

    def report(self, epoch: EpochResult, training: Training) -> None:
        pass

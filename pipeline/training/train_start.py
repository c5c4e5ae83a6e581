"""What a run starts from: the fresh network of a plan, and the training around it."""

from __future__ import annotations

import torch
from torch import nn

from dvflnet.videofocalnet import VideoFocalNet
from pipeline.networks.build import build_network
from pipeline.training.plan import TrainPlan
from pipeline.training.step import Training


def fresh_network(plan: TrainPlan) -> VideoFocalNet:
    """Build the network with weights that the run's seed decides."""
    torch.manual_seed(plan.recipe.train.seed)
    return plan_network(plan)


def plan_network(plan: TrainPlan) -> VideoFocalNet:
    """Build the network for the classes and frames of a plan."""
    recipe = plan.recipe
    return build_network(
        recipe.model,
        num_classes=len(plan.manifest.class_names),
        num_frames=recipe.clip_num_frames,
    )


def build_training(plan: TrainPlan, network: nn.Module, device: torch.device) -> Training:
    """Set optimiser and schedule up for a network that is on its device."""
    recipe = plan.recipe
    return Training(
        network,
        loss=recipe.loss,
        optim=recipe.optim,
        train=recipe.train,
        schedule=plan.schedule,
        device=device,
        motion_only=recipe.motion_only,
    )

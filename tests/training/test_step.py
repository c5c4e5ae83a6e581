"""One training step: its rate, its gradients, its randomness, and when it refuses."""

import json
import math
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dvflnet.videofocalnet import Block
from pipeline.config.learning import LossConfig, ModelConfig, OptimConfig, TrainConfig
from pipeline.config.schema import ViewsConfig
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import ConfigError, TrainingDiverged
from pipeline.networks.build import build_network
from pipeline.networks.recipe import Recipe
from pipeline.training.inputs import on_device, step_inputs
from pipeline.training.step import Schedule, StepResult, Training, build_schedule
from pipeline.views.loader import ClipBatch, ClipMixing, ClipRequest, jitter_rows
from pipeline.views.view import build_view

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL = ModelConfig(variant="nano", embed_dim=8, depths=(1, 1, 1, 1), drop_path_rate=0.2)
SCHEDULE = Schedule(peak=0.02, floor=0.0002, warmup_steps=5, num_steps=20)
TRAIN = TrainConfig()
NUM_CLASSES, BATCH_SIZE = 3, 2


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def start_training(
    seed: int = 0,
    schedule: Schedule = SCHEDULE,
    distill_weight: float = 0.5,
    accumulate: int = 1,
    model: ModelConfig = MODEL,
    device: str = "cpu",
    train: TrainConfig = TRAIN,
    **optim,
) -> Training:
    torch.manual_seed(seed)
    recipe = Recipe(
        role="student",
        model=model,
        loss=LossConfig(distill_weight=distill_weight, temperature=4.0),
        optim=OptimConfig(**optim),
        train=train.model_copy(update={"accumulate": accumulate}),
        policy=ViewsConfig(),
        num_views=8,
        num_frames=4,
        frame_stride=1,
        side=32,
        motion_only=False,
    )
    network = build_network(model, num_classes=NUM_CLASSES, num_frames=4)
    return Training(network.to(device), recipe, schedule, torch.device(device))


def batch_of(step: int) -> tuple[ClipBatch, torch.Tensor, torch.Tensor]:
    """Make up the clips, labels and teacher logits of a step."""
    draws = np.random.RandomState(step)
    records = [
        VideoRecord(f"v{step}-{i}", "v.avi", 0, "train", num_frames=50, width=64, height=48)
        for i in range(BATCH_SIZE)
    ]
    views = [build_view(ViewsConfig(), record, step, num_frames=4) for record in records]
    batch = ClipBatch(
        requests=tuple(ClipRequest(0, r, v) for r, v in zip(records, views, strict=True)),
        clips=(),
        frames=draws.randint(0, 256, (BATCH_SIZE, 4, 32, 32, 3)).astype(np.uint8),
        jitter=jitter_rows(views),
    )
    labels = torch.from_numpy(draws.randint(0, NUM_CLASSES, BATCH_SIZE))
    teacher_logits = torch.from_numpy(
        draws.normal(0, 3, (BATCH_SIZE, NUM_CLASSES)).astype(np.float32)
    )
    return batch, labels, teacher_logits


def take(training: Training, steps: range) -> list[StepResult]:
    return [training.step(step, *batch_of(step), rank=0) for step in steps]


def weights_of(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.network.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


# --- schedule -----------------------------------------------------------------------------------


def test_the_rate_is_the_published_one():
    """The published code sets the rate of index k after step k; here step k already has it.

    Both start at the floor, so the whole curve lies one step earlier here. It is the same curve.
    """
    golden = json.loads((GOLDEN / "recipe-golden.json").read_text())["lr"]
    steps_per_epoch, epochs = golden["steps_per_epoch"], golden["epochs"]
    schedule = build_schedule(
        OptimConfig(lr=0.1, lr_batch_size=512, warmup_epochs=golden["warmup_epochs"]),
        global_batch_size=24,
        steps_per_epoch=steps_per_epoch,
        num_steps=steps_per_epoch * epochs,
    )
    assert schedule.peak == pytest.approx(golden["base_lr"])
    assert schedule.at(0) == pytest.approx(golden["values"].pop("before_first_step"), rel=1e-12)
    for index, lr in golden["values"].items():
        assert schedule.at(int(index)) == pytest.approx(lr, rel=1e-12), index
    unscaled = OptimConfig(lr=0.3, lr_batch_size=None)
    steps = {"steps_per_epoch": 2, "num_steps": 80}
    assert build_schedule(unscaled, global_batch_size=9, **steps).peak == 0.3


def test_steps_use_the_rate_of_their_number():
    results = take(start_training(), range(7))
    assert [result.lr for result in results] == [SCHEDULE.at(step) for step in range(7)]


@pytest.mark.parametrize("mixed", [False, True])
def test_accumulated_batches_make_the_step_of_one(mixed):
    model = MODEL.model_copy(update={"drop_path_rate": 0.0})  # whose draws are by batch
    whole, parts = (start_training(accumulate=count, model=model) for count in (1, 2))
    for step in range(3):
        batch, labels, teacher_logits = batch_of(step)
        batch = replace(batch, clips=(None, None))
        if mixed:  # each part needs the other's clip
            rows = np.array([[700, 0, 0, 0, 0], [2048, 30, 30, 90, 90]], np.int16)
            batch = replace(batch, mixing=ClipMixing(np.array([1, 0]), rows))
        first, second = (
            training.step(step, batch, labels, teacher_logits, rank=0)
            for training in (whole, parts)
        )
        assert astuple(first) == pytest.approx(astuple(second), rel=1e-4)
    for name, tensor in weights_of(whole).items():
        torch.testing.assert_close(tensor, weights_of(parts)[name], rtol=1e-4, atol=1e-6)


def test_a_full_gpu_says_what_to_set(monkeypatch):
    training = start_training()

    def fail(*_):
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(training._clips.network, "forward", fail)
    batch, labels, teacher_logits = batch_of(0)
    batch = replace(batch, clips=(None, None))
    with pytest.raises(ConfigError, match=r"2 clips.*2 GiB[\s\S]*double train.accumulate"):
        training.step(0, batch, labels, teacher_logits, rank=0)


# --- optimiser ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_only_matrices_decay(kind):
    training = start_training(kind=kind, weight_decay=0.1)
    decaying, plain = training.optimiser.param_groups
    assert (decaying["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in plain["params"]} == {1}
    assert min(p.dim() for p in decaying["params"]) > 1
    grouped = {id(p) for p in [*decaying["params"], *plain["params"]]}
    assert grouped == {id(p) for p in training.network.parameters()}


def test_the_gradient_is_clipped_once_to_its_limit():
    free, clipped = (
        start_training(max_grad_norm=limit, momentum=0.0, weight_decay=0.0) for limit in (1e6, 0.01)
    )
    before = weights_of(clipped)
    (unclipped,), (result,) = take(free, range(3, 4)), take(clipped, range(3, 4))
    assert result.grad_norm == unclipped.grad_norm > 0.1  # reported as it was before clipping
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in clipped.network.parameters()))
    assert norm == pytest.approx(0.01, rel=1e-3)
    share = 0.01 / unclipped.grad_norm
    pairs = zip(free.network.parameters(), clipped.network.named_parameters(), strict=True)
    for whole, (name, part) in pairs:
        torch.testing.assert_close(part.grad, whole.grad * share, rtol=1e-3, atol=1e-9)
        torch.testing.assert_close(part.detach(), before[name] - result.lr * part.grad)


# --- divergence ---------------------------------------------------------------------------------


def poison_loss(training: Training, teacher_logits: torch.Tensor) -> None:
    teacher_logits[1, 0] = torch.nan


def poison_gradient(training: Training, teacher_logits: torch.Tensor) -> None:
    next(training.network.parameters()).register_hook(lambda gradient: gradient * torch.inf)


@pytest.mark.parametrize(("poison", "name"), [(poison_loss, "loss"), (poison_gradient, "gradient")])
def test_what_is_not_finite_stops_before_anything_changes(poison, name):
    training = start_training()
    take(training, range(2))
    weights, memory = weights_of(training), str(training.optimiser.state_dict()["state"])
    batch, labels, teacher_logits = batch_of(2)
    poison(training, teacher_logits)
    with pytest.raises(TrainingDiverged, match=rf"the {name} of step 2 is (nan|inf)") as caught:
        training.step(2, batch, labels, teacher_logits, rank=0)
    assert "v2-0, v2-1" in str(caught.value)
    assert same(weights_of(training), weights)
    assert str(training.optimiser.state_dict()["state"]) == memory


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_no_launched_step_updates_anything_from_the_bad_one_on(kind):
    """On a GPU the values are read later, after steps that were launched meanwhile."""
    training = start_training(kind=kind)
    take(training, range(2))
    weights, memory = weights_of(training), str(training.optimiser.state_dict()["state"])
    for step in range(2, 5):
        batch, labels, teacher_logits = batch_of(step)
        if step == 3:
            poison_loss(training, teacher_logits)
        training.launch(step, step_inputs(batch, labels, teacher_logits, num_parts=1), rank=0)
        if step == 2:
            assert not same(weights_of(training), weights)
            weights, memory = weights_of(training), str(training.optimiser.state_dict()["state"])
    with pytest.raises(TrainingDiverged, match=r"the loss of step 3 is nan[\s\S]*v3-0, v3-1"):
        training.results()
    assert same(weights_of(training), weights)
    assert str(training.optimiser.state_dict()["state"]) == memory


def test_results_are_those_of_steps_taken_one_by_one():
    training = start_training(accumulate=2)
    for step in range(4):
        batch, *targets = batch_of(step)
        parts = step_inputs(replace(batch, clips=(None, None)), *targets, num_parts=2)
        training.launch(step, parts, rank=0)
    one_by_one = start_training(accumulate=2)
    for number, result in training.results():
        batch, *targets = batch_of(number - 1)
        batch = replace(batch, clips=(None, None))
        assert result == one_by_one.step(number - 1, batch, *targets, rank=0)
    assert training.results() == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_copies_ahead_and_is_not_waited_for():
    device, model = torch.device("cuda"), MODEL.model_copy(update={"drop_path_rate": 0.0})
    training, on_cpu = (start_training(device=name, model=model) for name in ("cuda", "cpu"))
    training.step(0, *batch_of(0), rank=0)  # the first one sets up what waits
    host = (step_inputs(*batch_of(step), num_parts=1) for step in range(1, 5))
    copied = list(on_device(host, device))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, parts in enumerate(copied, start=1):
            training.launch(step, parts, rank=0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [result for _, result in training.results()]
    expected = take(on_cpu, range(5))[1:]
    assert [astuple(result) for result in found] == [
        pytest.approx(astuple(result), rel=0.05) for result in expected
    ]


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
def test_checkpointed_activations_change_no_bit(drop_path_rate):
    model = MODEL.model_copy(update={"drop_path_rate": drop_path_rate})
    plain = start_training(model=model)
    spared = start_training(model=model, train=TrainConfig(checkpoint_activations=True))
    assert take(spared, range(3)) == take(plain, range(3))
    assert same(weights_of(spared), weights_of(plain))
    assert torch.equal(*(training.predict(batch_of(5)[0]) for training in (spared, plain)))


def test_checkpointed_activations_run_each_block_again(monkeypatch):
    calls = []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda *args: calls.append(1) or forward(*args))
    take(start_training(train=TrainConfig(checkpoint_activations=True)), range(1))
    assert len(calls) == 8


# torch's own compiler uses what torch deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_network_learns_the_same(monkeypatch):
    """Without the last part of the compiler, whose C++ takes minutes on a small machine."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = MODEL.model_copy(update={"drop_path_rate": 0.0})  # which compiled code draws otherwise
    plain = start_training(model=model)
    compiled = start_training(model=model, train=TrainConfig(compile=True))
    pairs = zip(take(compiled, range(3)), take(plain, range(3)), strict=True)
    for found, expected in pairs:
        assert astuple(found) == pytest.approx(astuple(expected), rel=1e-3)
    assert compiled.weights.keys() == plain.weights.keys()
    assert compiled.network._compiled_call_impl is not None


def test_what_cannot_be_compiled_says_so(monkeypatch):
    training = start_training()

    class NoCompiler(RuntimeError):
        __module__ = "torch._inductor.exc"

    def fail(*_):
        raise NoCompiler("no working C++ compiler found\n\nmore")

    monkeypatch.setattr(training._clips.network, "forward", fail)
    with pytest.raises(ConfigError, match=r"no working C\+\+ compiler found\n.*compile=false"):
        take(training, range(1))


# --- the curve ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight() -> tuple[list[StepResult], dict[str, torch.Tensor]]:
    training = start_training()
    return take(training, range(20)), weights_of(training)


def test_the_curve_is_the_recorded_one(straight):
    """A refactor must leave it; a change of the numerics records it anew and says why.

    Another number of threads or another processor moved it by 2e-6.
    """
    recorded = json.loads((GOLDEN / "loss-curve.json").read_text())
    assert [list(astuple(result)) for result in straight[0]] == [
        pytest.approx(row, rel=1e-5) for row in recorded
    ]


def test_workers_draw_apart_and_steps_too():
    """Drop path is the only draw in a step."""
    losses = set()
    for step, rank in [(0, 0), (0, 1), (1, 0)]:
        training = start_training()
        losses.add(training.step(step, *batch_of(0), rank=rank).loss)
    assert len(losses) == 3


def test_prediction_changes_nothing_and_draws_nothing():
    training = start_training()
    take(training, range(2))
    weights = weights_of(training)
    first, second = (training.predict(batch_of(5)[0]) for _ in range(2))
    assert torch.equal(first, second)
    assert (first.shape, first.dtype) == ((BATCH_SIZE, NUM_CLASSES), torch.float32)
    assert same(weights_of(training), weights)

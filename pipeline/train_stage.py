"""Stage two: train a network on Ray Train, from cached targets (student) or from labels (teacher).

::

    plan      manifest and store -> rows, order, schedule, name of the run
    fit       workers run pipeline.train_loop; rank 0 writes a checkpoint after every evaluation
    publish   best and last weights; result.json last

The name of a run holds a digest of everything that decides its weights. The same command finds the
same run and goes on from its last checkpoint; another setting is another run.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline import storage
from pipeline.checkpoints import TrainingState, read_checkpoint, write_checkpoint
from pipeline.cluster import ray_session
from pipeline.config import ExperimentConfig, resolved_yaml
from pipeline.errors import DatasetError, PipelineError, Status
from pipeline.fingerprint import build_identity
from pipeline.logit_store.mirror import Mirror, open_mirror
from pipeline.logit_store.reader import open_store
from pipeline.manifest import Manifest, read_manifest
from pipeline.networks import build_network, start_network
from pipeline.progress import Progress
from pipeline.recipe import Recipe, student_recipe, teacher_recipe
from pipeline.teacher_predictor import teacher_digest
from pipeline.tracked_run import TrackedRun
from pipeline.tracking import open_run
from pipeline.train_loop import EpochResult, train
from pipeline.train_plan import TrainPlan
from pipeline.train_report import publish_result
from pipeline.training import Training
from pipeline.views import EVALUATION_VIEW

T = TypeVar("T")

# Where this machine keeps memory-mapped copies of the stores that it trains from.
MIRRORS = Path(tempfile.gettempdir()) / f"dvflnet-mirrors-{os.getuid()}"
SELECTION = "val/top1"  # the best checkpoint has the highest
NEWS_SECONDS = 2.0  # between two words on how far training is


def run_train_student(config: ExperimentConfig, ray_address: str) -> dict[str, Any]:
    """Train the student on the sealed logit store; return the run's result.

    Raises:
        StoreIncomplete: if there is no sealed store.
        FingerprintMismatch: if the store was made from something else than the config names.

    """
    return _run(plan_student(config), ray_address)


def run_train_teacher(config: ExperimentConfig, ray_address: str) -> dict[str, Any]:
    """Train the teacher from labels and publish its best weights; return the run's result."""
    plan = plan_teacher(config)
    result = _run(plan, ray_address)
    weights = storage.join_uri(plan.folder, "best.safetensors")
    storage.write_bytes(config.teacher_weights_uri, storage.read_bytes(weights))
    print(f"teacher: {config.teacher_weights_uri}")
    return result


def plan_student(config: ExperimentConfig) -> TrainPlan:
    """Check the store and plan the student's run; starts nothing."""
    manifest = read_manifest(config.manifest_uri, root=config.dataset.root)
    _check_store(config, manifest)
    mirror = open_mirror(config.store_uri, MIRRORS)
    return plan_training(config, student_recipe(config), manifest, mirror)


def plan_teacher(config: ExperimentConfig) -> TrainPlan:
    """Plan the teacher's run; starts nothing."""
    manifest = read_manifest(config.manifest_uri, root=config.dataset.root)
    return plan_training(config, teacher_recipe(config), manifest, mirror=None)


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
    )


def _check_store(config: ExperimentConfig, manifest: Manifest) -> None:
    """Refuse a store that was made from something else.

    The teacher's weights need not be here to train a student; where they are, they are checked too.
    """
    store = open_store(config.store_uri)
    here = storage.exists(config.teacher_weights_uri)
    digest = teacher_digest(config) if here else store.spec.identity["teacher"]["weights_sha256"]
    store.check_identity(build_identity(config, manifest=manifest, teacher_digest=digest))


def _with_logits(mirror: Mirror, rows: list[int], view_indices: list[int]) -> list[int]:
    """Keep the rows whose views all have logits."""
    slots = mirror.spec.slots(view_indices)
    return [row for row in rows if (mirror.status[row, slots] == Status.GOOD).all()]


def _run(plan: TrainPlan, ray_address: str) -> dict[str, Any]:
    print(plan.as_text(), flush=True)
    result_uri = storage.join_uri(plan.folder, "result.json")
    if storage.exists(result_uri):
        print("trained already, nothing to do")
        return dict(storage.read_json(result_uri))
    num_cpus = plan.num_workers
    with _open_run(plan) as run, ray_session(plan.config, ray_address, num_cpus=num_cpus):
        checkpoints = _fit(plan, run)
        result = publish_result(plan, checkpoints, _open_mirror(plan), run)
        storage.write_json(result_uri, result)
        print(run.link)
    return result


def _fit(plan: TrainPlan, run: TrackedRun) -> list[tuple[Any, dict[str, Any]]]:
    """Run Ray Train to the end; return (checkpoint, metrics) pairs, best and last among them."""
    import ray.train
    from ray.train.torch import TorchTrainer

    with Listener(plan, run) as listener:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"plan": plan, "news": listener.news},
            scaling_config=ray.train.ScalingConfig(
                num_workers=plan.num_workers,
                use_gpu=plan.config.cluster.use_gpu,
                resources_per_worker={"CPU": 1},
            ),
            run_config=ray.train.RunConfig(
                name=plan.name,
                storage_path=storage.join_uri(plan.config.artefacts, "runs"),
                failure_config=ray.train.FailureConfig(max_failures=plan.recipe.train.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute=SELECTION
                ),
                callbacks=[_on_report(listener.news)],
            ),
        )
        try:
            result: Any = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _first_known(error) or error from error
    if isinstance(result.return_value, PipelineError):
        raise result.return_value
    return list(result.best_checkpoints or [])


def _work(setup: dict[Any, Any]) -> Any:
    """What Ray Train runs in each worker."""
    import ray.train
    import ray.train.torch

    plan: TrainPlan = setup["plan"]
    torch.set_num_threads(plan.config.cluster.worker_threads)
    torch.manual_seed(plan.recipe.train.seed)  # decides the fresh weights
    network = build_network(
        plan.recipe.model,
        num_classes=len(plan.manifest.class_names),
        num_frames=plan.recipe.num_frames // plan.recipe.frame_stride,
    )
    resumed = _last_state()
    if resumed is not None:
        network.load_state_dict(dict(resumed.weights))
    elif (report := start_network(network, plan.recipe.model)) is not None:
        print(report.as_text())
    training = Training(
        ray.train.torch.prepare_model(network),
        loss=plan.recipe.loss,
        optim=plan.recipe.optim,
        train=plan.recipe.train,
        schedule=plan.schedule,
        device=ray.train.torch.get_device(),
        motion_only=plan.config.clip.motion_only,
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
            mirror=_open_mirror(plan),
            first_step=resumed.step if resumed else 0,
        )
    except PipelineError as error:
        if plan.num_workers > 1:
            raise  # the other workers wait for this one; Ray Train must end them
        return error  # a restart would only meet it again
    return None


def _open_mirror(plan: TrainPlan) -> Mirror | None:
    """Open this machine's copy of the store, if the run learns from one."""
    return open_mirror(plan.config.store_uri, MIRRORS) if plan.root_digest else None


def _last_state() -> TrainingState | None:
    """Return the state of the run's last checkpoint, if there is one."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return read_checkpoint(Path(folder))


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
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self.rank == 0:
                self._write(Path(folder), result)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            name = f"epoch_{result.epoch:04d}"
            ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=name)

    def _write(self, folder: Path, result: EpochResult) -> None:
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
        write_checkpoint(folder, state, class_names=names, facts=facts)


def _on_report(news: Any) -> Any:
    """Pass each report on once, from the controller: rank 0 repeats some after a restart."""
    from ray.train import UserCallback

    class PassOn(UserCallback):
        def after_report(self, run_context: Any, metrics: list[Any], checkpoint: Any) -> None:
            news.put(metrics[0])

    return PassOn()


class Listener:
    """Shows and tracks, in the driver, what the workers have to say."""

    def __init__(self, plan: TrainPlan, run: TrackedRun) -> None:
        from ray.util.queue import Queue

        self.news: Any = Queue(actor_options={"num_cpus": 0})
        self._plan, self._run = plan, run
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.news.put(None)
        self._thread.join()
        self.news.shutdown()

    def _listen(self) -> None:
        plan = self._plan
        with Progress(plan.recipe.role, plan.order.num_steps, "steps") as progress:
            while (message := self.news.get()) is not None:
                progress.reach(message["step"])
                if "points" in message:
                    self._track(message)

    def _track(self, report: dict[str, Any]) -> None:
        for step, values in report["points"]:
            self._run.log_metrics(step, values)
        val = {name: value for name, value in report.items() if name.startswith("val/")}
        self._run.log_metrics(report["step"], val | {"train/epoch": report["epoch"]})
        loss = report["points"][-1][1]["train/loss"]
        parts = [f"{name.removeprefix('val/')} {value:.3f}" for name, value in val.items()]
        print(
            f"epoch {report['epoch']}/{self._plan.order.epochs}  {report['seconds']:.0f} s  "
            f"loss {loss:.3f}  val: {'  '.join(parts)}",
            flush=True,
        )


def _first_known(error: Any) -> PipelineError | None:
    """Return the first worker's error that a user can act on."""
    failures = getattr(error, "worker_failures", {}).values()
    return next((failure for failure in failures if isinstance(failure, PipelineError)), None)


def _open_run(plan: TrainPlan) -> TrackedRun:
    student = plan.recipe.role == "student"
    run = open_run(
        plan.config,
        stage=f"train_{plan.recipe.role}",
        name=plan.name,
        key=plan.key,
        sections=("student", "loss", "optim", "train") if student else ("teacher",),
        tags=_store_tags(plan) if student else {},
    )
    if student:
        run.log_dataset(
            "logit-store", digest=plan.root_digest, uri=plan.config.store_uri, context="training"
        )
    return run


def _store_tags(plan: TrainPlan) -> dict[str, str]:
    spec = open_store(plan.config.store_uri).spec
    return {
        "cache.key": spec.fingerprint,
        "cache.root_digest": plan.root_digest,
        "teacher.sha256": spec.identity["teacher"]["weights_sha256"],
    }

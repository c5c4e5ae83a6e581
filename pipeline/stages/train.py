"""Stage two: train a network on Ray Train, from cached targets (student) or from labels (teacher).

::

    plan      manifest and store -> rows, order, schedule, name of the run
    fit       workers run pipeline.training.loop; rank 0 writes a checkpoint after every evaluation
    publish   best and last weights; result.json last

The name of a run holds a digest of everything that decides its weights. The same command finds the
same run and goes on from its last checkpoint; another setting is another run.
"""

from __future__ import annotations

import threading
from typing import Any

from pipeline.config.schema import ExperimentConfig
from pipeline.errors import PipelineError, StorageUnavailable
from pipeline.results.training_run import log_epoch, publish_result, store_tags, val_scores
from pipeline.stages.cluster import ray_session
from pipeline.stages.train_worker import has_started, keep_snapshot, mend_snapshot, work
from pipeline.storage.files import exists, join_uri, read_bytes, read_json, write_bytes, write_json
from pipeline.storage.locks import training_alone
from pipeline.tracking.models import register_model
from pipeline.tracking.progress import Progress
from pipeline.tracking.run import TrackedRun, open_run
from pipeline.training.plan import TrainPlan, open_plan_mirror, plan_student, plan_teacher

SELECTION = "val/top1"  # the best checkpoint has the highest


def run_train_student(config: ExperimentConfig, ray_address: str) -> dict[str, Any]:
    """Train the student on the sealed logit store; return the run's result.

    Raises:
        StoreIncomplete: if there is no sealed store.
        FingerprintMismatch: if the store was made from something else than the config names.

    """
    return _run(plan_student(config), ray_address)


def register_student(config: ExperimentConfig, result: dict[str, Any], name: str) -> None:
    """Register the model of a finished run in MLflow and say where it is.

    Raises:
        StorageUnavailable: if the run or its model is not there.

    """
    uri, run_id = config.tracking_uri, result["run_id"]
    if run_id is None:
        raise StorageUnavailable(
            f"MLflow at {uri} was away when {result['name']} was trained: there is no run to "
            "register. Its weights are beside its result."
        )
    version = register_model(uri, run_id, name)
    print(f"registered: models:/{name}/{version}, and models:/{name}@candidate until the next one")


def run_train_teacher(config: ExperimentConfig, ray_address: str) -> dict[str, Any]:
    """Train the teacher from labels and publish its best weights; return the run's result."""
    plan = plan_teacher(config)
    result = _run(plan, ray_address)
    weights = read_bytes(join_uri(plan.folder, "best.safetensors"))
    write_bytes(config.own_teacher_uri, weights)
    print(f"teacher: {config.own_teacher_uri}")
    return result


def _run(plan: TrainPlan, ray_address: str) -> dict[str, Any]:
    print(plan.as_text(), flush=True)
    result_uri = join_uri(plan.folder, "result.json")
    with training_alone(plan.folder):
        if exists(result_uri):
            print("trained already, nothing to do")
            return dict(read_json(result_uri))
        result = _train(plan, ray_address)
        # After the end of the run: whoever dies before this publishes again, to MLflow as well.
        write_json(result_uri, result)
    return result


def _train(plan: TrainPlan, ray_address: str) -> dict[str, Any]:
    num_cpus = plan.num_workers
    with _open_run(plan) as run, ray_session(plan.config, ray_address, num_cpus=num_cpus):
        checkpoints = _fit(plan, run)
        result = publish_result(plan, checkpoints, open_plan_mirror(plan), run)
        print(run.link)
    return result


def _fit(plan: TrainPlan, run: TrackedRun) -> list[tuple[Any, dict[str, Any]]]:
    """Run Ray Train to the end; return (checkpoint, metrics) pairs, the best and the last."""
    import ray.train
    from ray.train.torch import TorchTrainer

    mend_snapshot(plan.folder)
    with Listener(plan, run) as listener:
        trainer = TorchTrainer(
            work,
            train_loop_config={"plan": plan, "news": listener.news},
            scaling_config=ray.train.ScalingConfig(
                num_workers=plan.num_workers,
                use_gpu=plan.config.cluster.use_gpu,
                resources_per_worker={"CPU": 1},
            ),
            run_config=ray.train.RunConfig(
                name=plan.name,
                storage_path=join_uri(plan.config.artefacts, "runs"),
                failure_config=ray.train.FailureConfig(max_failures=plan.recipe.train.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute=SELECTION
                ),
                callbacks=[_on_report(listener.news, plan.folder)],
            ),
        )
        try:
            result: Any = trainer.fit()
        except (ray.train.TrainingFailedError, OSError) as error:
            raise _known(plan, error) or error from error
    if isinstance(result.return_value, PipelineError):
        raise result.return_value
    # The last is kept, too, but Ray does not count it among the best.
    return [*(result.best_checkpoints or []), (result.checkpoint, result.metrics)]


def _on_report(news: Any, folder: str) -> Any:
    """Pass each report on once, from the controller: rank 0 repeats some after a restart."""
    from ray.train import UserCallback

    class PassOn(UserCallback):
        def after_report(self, run_context: Any, metrics: list[Any], checkpoint: Any) -> None:
            keep_snapshot(folder)
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
                if "text" in message:
                    progress.say(message["text"])
                if "points" in message:
                    self._track(message, progress)

    def _track(self, report: dict[str, Any], progress: Progress) -> None:
        log_epoch(self._run, report)
        loss = report["points"][-1][1]["train/loss"]
        parts = [
            f"{name.removeprefix('val/')} {value:.3f}" for name, value in val_scores(report).items()
        ]
        progress.say(
            f"epoch {report['epoch']}/{self._plan.order.epochs}  {report['seconds']:.0f} s  "
            f"loss {loss:.3f}  val: {'  '.join(parts)}"
        )


def _known(plan: TrainPlan, error: Any) -> PipelineError | None:
    """Return what a user can act on: a worker's error, or storage that Ray's record is not safe on.

    Ray Train writes that record from its controller, through pyarrow, whose errors are ``OSError``.
    """
    failures = getattr(error, "worker_failures", {}).values()
    known = next((failure for failure in failures if isinstance(failure, PipelineError)), None)
    cause = getattr(error, "controller_failure", error)
    if isinstance(cause, PipelineError):
        return cause
    if known is None and isinstance(cause, OSError):
        return StorageUnavailable(f"{plan.folder}: {cause}\n  Run the same command again.")
    return known


def _open_run(plan: TrainPlan) -> TrackedRun:
    student = plan.recipe.role == "student"
    run = open_run(
        plan.config,
        stage=f"train_{plan.recipe.role}",
        name=plan.name,
        key=plan.key,
        sections=("student", "loss", "optim", "train") if student else ("teacher",),
        tags=store_tags(plan) if student else {},
        reopen_finished=has_started(plan.folder),  # without a result nothing has ended
    )
    if student:
        run.log_dataset(
            "logit-store", digest=plan.root_digest, uri=plan.store_uri, context="training"
        )
    return run

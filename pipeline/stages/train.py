"""Stage two: train a network on Ray Train, from cached targets (student) or from labels (teacher).

::

    plan      manifest and store -> rows, order, schedule, name of the run
    fit       workers run training/loop.py; rank 0 writes a checkpoint after every evaluation
    publish   best and last weights; result.json last

The name of a run holds a digest of everything that decides its weights. The same command finds the
same run and goes on from its last checkpoint; another setting makes another run.
"""

from __future__ import annotations

import json
from typing import Any

from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import ConfigError, PipelineError, StorageUnavailable
from pipeline.results.training_run import (
    log_epoch,
    log_store,
    publish_result,
    store_tags,
    val_scores,
)
from pipeline.stages.cluster import check_importable, ray_session
from pipeline.stages.workers import Follower, Message, work
from pipeline.storage import files
from pipeline.storage.arrow import arrow_filesystem
from pipeline.storage.files import (
    is_local,
    join_uri,
    read_bytes,
    read_record,
    write_bytes,
    write_record,
)
from pipeline.storage.locks import training_alone
from pipeline.tracking.progress import Progress
from pipeline.tracking.run import TrackedRun, open_run
from pipeline.tracking.server import register_model
from pipeline.training.checkpoint import RunFiles
from pipeline.training.loop import SCORE
from pipeline.training.plan import open_plan_mirror
from pipeline.training.train_plan import TrainPlan


def run_training(
    plan: TrainPlan, ray_address: str, *, register: str | None = None
) -> dict[str, Any]:
    """Train a student on the sealed logit store, or the teacher from labels; return its result.

    The teacher's selected weights are copied to where ``cache_teacher`` looks for them. With
    ``register`` the network becomes a version of that registered model in MLflow.
    """
    print(plan.as_text(), flush=True)
    if register and not plan.config.tracking.log_model:
        raise ConfigError("--register needs the model in MLflow: set tracking.log_model=true")
    with training_alone(plan.folder):
        if files.exists(plan.files.result):
            print("trained already, nothing to do")
            result = read_record(plan.files.result)
        else:
            num = plan.num_workers
            session = ray_session(plan.config, ray_address, num_cpus=num, num_networks=num)
            with session, _open_run(plan) as run:
                check_importable(plan.recipe.model)
                checkpoints = _fit(plan, run)
                result = publish_result(plan, checkpoints, open_plan_mirror(plan), run)
                print(run.link)
            # Last of all: a job that is killed before this publishes again, to MLflow as well.
            write_record(plan.files.result, result)
    if plan.recipe.role == "teacher":
        write_bytes(plan.config.own_teacher_uri, read_bytes(plan.selected))
        print(f"teacher: {plan.config.own_teacher_uri}")
    if register:
        register_run(plan.config, result["run_id"], register)
    return result


def register_run(config: ExperimentConfig, run_id: str | None, name: str) -> None:
    """Make a run's model a version of a registered one, and print its name there."""
    uri = config.tracking_uri
    if run_id is None:
        raise StorageUnavailable(f"MLflow at {uri} was away, so there is no run to register")
    version = register_model(uri, run_id, name)
    print(f"registered: models:/{name}/{version}, and models:/{name}@candidate until the next one")


def _fit(plan: TrainPlan, run: TrackedRun) -> list[tuple[Any, dict[str, Any]]]:
    """Run Ray Train to the end; return (checkpoint, metrics) pairs, the best and the last."""
    import ray.train
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Leave Ctrl-C to the job: Ray's own handler ends it with exit code 0."""

    def receive(message: Message, progress: Progress) -> None:
        if "points" in message:
            log_epoch(run, message)
            progress.say(_epoch_line(plan, message))

    mend_snapshot(plan.files)
    filesystem, path = arrow_filesystem(join_uri(plan.config.artefacts, "runs"))
    with Follower(plan.recipe.role, plan.order.num_steps, receive) as follower:
        trainer = Trainer(
            work,
            train_loop_config={"plan": plan, "queue": follower.queue},
            scaling_config=ray.train.ScalingConfig(
                num_workers=plan.num_workers,
                use_gpu=plan.config.cluster.use_gpu,
                resources_per_worker={"CPU": 1},
            ),
            run_config=ray.train.RunConfig(
                name=plan.name,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(max_failures=plan.recipe.train.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute=SCORE
                ),
                callbacks=[_on_report(plan, follower.queue)],
            ),
        )
        try:
            result: Any = trainer.fit()
        except (ray.train.TrainingFailedError, OSError) as error:
            if known := _known(plan, error):
                raise known from error
            raise
    if isinstance(result.return_value, PipelineError):
        raise result.return_value
    # Ray keeps the last checkpoint too, but does not list it among the best.
    return [*(result.best_checkpoints or []), (result.checkpoint, result.metrics)]


def _on_report(plan: TrainPlan, queue: Any) -> Any:
    """Return a callback that Ray Train's controller calls once a report is recorded.

    Workers do not put reports into the queue themselves, because they repeat some after a restart.
    """
    from ray.train import UserCallback

    run_files, run = plan.files, plan.name

    class PassOn(UserCallback):
        def after_report(self, run_context: Any, metrics: list[Any], checkpoint: Any) -> None:
            keep_snapshot(run_files)
            queue.put({"run": run, **metrics[0]})

    return PassOn()


def keep_snapshot(run: RunFiles) -> None:
    """Copy Ray Train's record of a run, whole or not at all, and with a digest; not in a bucket.

    Ray writes this snapshot in place, refuses to start on half of it, and believes what it reads:
    a changed score would make another epoch the best. The copy is at most one report behind and
    names only checkpoints that exist, because Ray deletes those that a snapshot leaves out after
    writing it.
    """
    if is_local(run.folder):
        write_record(run.snapshot_copy, {"snapshot": read_bytes(run.snapshot).decode()})


def mend_snapshot(run: RunFiles) -> None:
    """Replace a snapshot that is cut off or changed by its copy, before Ray Train starts.

    Half of the first one has no copy and is deleted; nothing was reported before it.
    """
    if not is_local(run.folder) or not files.exists(run.snapshot):
        return
    found, copy = read_bytes(run.snapshot), b""
    if files.exists(run.snapshot_copy):
        copy = read_record(run.snapshot_copy)["snapshot"].encode()
    if found == copy:
        return
    if _follows(found, copy):
        keep_snapshot(run)  # a kill came between the snapshot and its copy
    elif copy:
        write_bytes(run.snapshot, copy)
    else:
        files.delete(run.snapshot)


def _follows(found: bytes, copy: bytes) -> bool:
    """Whether a snapshot is whole, and one report and one checkpoint ahead of its copy."""
    try:
        number, name = _last_report(found)
        copied, copied_name = _last_report(copy) if copy else (number - 1, "")
    except (ValueError, KeyError, TypeError):
        return False
    return number == copied + 1 and name != copied_name


def _last_report(snapshot: bytes) -> tuple[int, str]:
    values = json.loads(snapshot)
    latest = values["latest_checkpoint_result"]["checkpoint_dir_name"]
    return values["current_report_index"], latest


def _epoch_line(plan: TrainPlan, report: Message) -> str:
    loss = report["points"][-1][1]["train/loss"]
    parts = [
        f"{name.removeprefix('val/')} {value:.3f}" for name, value in val_scores(report).items()
    ]
    return (
        f"epoch {report['epoch']}/{plan.order.epochs}  {report['seconds']:.0f} s  "
        f"loss {loss:.3f}  val: {'  '.join(parts)}"
    )


def _known(plan: TrainPlan, error: Any) -> PipelineError | None:
    """Translate a failure of Ray Train into a PipelineError; None if it is a bug.

    Its controller writes the snapshot through pyarrow, which raises ``OSError`` if a disk is full.
    """
    cause = getattr(error, "controller_failure", error)
    failures = [cause, *getattr(error, "worker_failures", {}).values()]
    known = next((failure for failure in failures if isinstance(failure, PipelineError)), None)
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
        tags=store_tags(plan) | {"selection": plan.recipe.train.selection},
        # result.json is missing, so the run is unfinished even if MLflow says FINISHED.
        reopen_finished=files.exists(plan.files.snapshot),
    )
    log_store(run, plan)
    return run

"""The ablation of the paper, on Ray Tune: many students from one logit store.

::

    plan      the store is checked once; every trial is a plan of its own
    tune      trials that have no result yet, as many at once as the cluster has CPUs for
    publish   table, CSV and heat map; sweep.json last

Trials report to the driver, which logs each as a child of the sweep's run in MLflow and writes its
result when it is finished. Whatever dies, the same command trains what is missing.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.schema import ExperimentConfig
from pipeline.errors import PipelineError, TrialsFailed
from pipeline.results.sweep import (
    Outcome,
    best_cell,
    cells_of,
    heatmap_figure,
    sweep_csv,
    sweep_table,
    sweep_values,
)
from pipeline.results.training_run import log_epoch, store_tags, val_scores
from pipeline.stages.cluster import ray_session
from pipeline.storage.files import (
    exists,
    join_uri,
    read_json,
    readable_json,
    write_bytes,
    write_json,
)
from pipeline.tracking.progress import Progress
from pipeline.tracking.run import TrackedRun, figure_png, open_run
from pipeline.training.plan import TrainPlan
from pipeline.training.sweep import SweepPlan, Trial, plan_sweep, run_trial

# Read by Ray Tune when it is used.
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files beside ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job, as everywhere
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails reports a reason, no metric
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a table of its own even at verbosity 0
}
METRIC = "val/top1"  # what ASHA compares
REDUCTION = 3  # of the trials that reach a rung, ASHA goes on with one in so many


def run_sweep(config: ExperimentConfig, ray_address: str, *, asha: bool = False) -> dict[str, Any]:
    """Train every student of ``config.sweep``; return what is in ``sweep.json``.

    Args:
        config: the experiment.
        ray_address: as for every stage.
        asha: stop trials that fall behind. The cells then hold the seeds that survived, which
            are the lucky ones: good for finding a place in the grid, not for comparing places.

    Raises:
        ConfigError, StoreIncomplete, FingerprintMismatch: as ``plan_sweep``.
        TrialsFailed: if a trial failed, after all others were trained and the table was written.

    """
    plan = plan_sweep(config, asha=asha)
    print(plan.as_text(), flush=True)
    result_uri = join_uri(plan.folder, "sweep.json")
    if exists(result_uri):
        print("swept already, nothing to do")
        result = dict(read_json(result_uri))
        print(sweep_table([Outcome(**values) for values in result["trials"]]))
        return result
    with _open_parent(plan) as run:
        outcomes = _train(plan, run, ray_address)
        result = _publish(plan, outcomes, run)
        failed = [outcome for outcome in outcomes if outcome.state == "failed"]
        if failed:
            raise TrialsFailed(
                f"{len(failed)} of {len(outcomes)} trials failed, the first is {failed[0].name}:\n"
                f"  {failed[0].reason}\n  The same command trains the missing ones."
            )
        write_json(result_uri, result)
        print(run.link)
    return result


def _train(plan: SweepPlan, run: TrackedRun, ray_address: str) -> list[Outcome]:
    """Train the trials that have no result yet; return the outcomes of all, in their order."""
    done = {t.name: _read(t) for t in plan.trials if exists(t.result_uri)}
    missing = [trial for trial in plan.trials if trial.name not in done]
    if done:
        print(f"{len(done)} of {len(plan.trials)} trials are trained already", flush=True)
    if missing:
        with ray_session(plan.config, ray_address, num_cpus=_num_cpus(plan.config)):
            done |= _tune(plan, missing, run)
    return [done[trial.name] for trial in plan.trials]


def _tune(plan: SweepPlan, trials: Sequence[Trial], run: TrackedRun) -> dict[str, Outcome]:
    """Run Ray Tune over trials; return their outcomes by name."""
    for name, value in TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses the files that we do not want
    cluster = plan.config.cluster
    plans = {trial.name: trial.plan for trial in trials}
    trainable = tune.with_resources(
        tune.with_parameters(_work, plans=plans),
        {"cpu": _num_cpus(plan.config), "gpu": int(cluster.use_gpu)},
    )
    num_steps = sum(trial.plan.order.num_steps for trial in trials)
    with (
        Progress("sweep", num_steps, "steps") as progress,
        Watch(trials, run, progress) as watch,
    ):
        tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(sorted(plans))},
            tune_config=tune.TuneConfig(
                scheduler=_asha(plan) if plan.asha else None,
                trial_dirname_creator=lambda trial: str(trial.config["trial"]),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=plan.folder,
                failure_config=tune.FailureConfig(max_failures=plan.config.train.max_failures),
                callbacks=[_callback(watch)],
                verbose=0,
            ),
        ).fit()
    return watch.outcomes


def _work(setup: dict[str, Any], plans: Mapping[str, TrainPlan]) -> dict[str, Any] | None:
    """What Ray Tune runs in a trial's process."""
    from ray import tune

    try:
        run_trial(plans[setup["trial"]], tune.report)
    except PipelineError as error:
        return {"failure": str(error)}  # raised, it would be tried again, and only met again
    return None


def _asha(plan: SweepPlan) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    first, *_, last = [*plan.trials[0].plan.evaluated_epochs(), plan.config.train.epochs]
    return ASHAScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        grace_period=first,
        max_t=last,
        reduction_factor=REDUCTION,
    )


def _callback(watch: Watch) -> Any:
    """Return what Ray Tune calls, in this process, when something happens to a trial."""
    from ray.tune import Callback

    class Follow(Callback):
        def __init__(self, watch: Watch | None) -> None:
            self._watch = watch

        def __reduce__(self) -> Any:
            return Follow, (None,)  # Ray Tune keeps its callbacks on disk; that one sees nothing

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            if self._watch:
                self._watch.start(trial.config["trial"])

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
        ) -> None:
            if self._watch:
                self._watch.report(trial.config["trial"], result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            if self._watch:
                self._watch.end(trial.config["trial"], trial.last_result)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            if self._watch:
                error = _last_line(trial.get_error())
                self._watch.end(trial.config["trial"], {"failure": error})

    return Follow(watch)


class Watch:
    """Follows the trials in the driver: a run in MLflow and a result for each.

    On leaving, the runs of trials that were under way end as KILLED.
    """

    def __init__(self, trials: Sequence[Trial], parent: TrackedRun, progress: Progress) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._trials = {trial.name: trial for trial in trials}
        self._parent, self._progress = parent, progress
        self._runs: dict[str, TrackedRun] = {}
        self._steps = dict.fromkeys(self._trials, 0)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._runs.keys() - self.outcomes.keys():
            self._runs[name].finish("KILLED")

    def start(self, name: str) -> None:
        """Open a trial's run; one that is tried again keeps its own."""
        if name not in self._runs:
            plan = self._trials[name].plan
            self._runs[name] = open_run(
                plan.config,
                stage="sweep_trial",
                name=name,
                key=plan.key,
                sections=("student", "loss", "optim", "train"),
                tags=store_tags(plan),
                parent=self._parent,
            )

    def report(self, name: str, result: Mapping[str, Any]) -> None:
        """Log an evaluated epoch."""
        if "failure" in result:
            return
        self._steps[name] = result["step"]
        self._progress.reach(sum(self._steps.values()))
        log_epoch(self._runs[name], result)

    def end(self, name: str, result: Mapping[str, Any]) -> None:
        """End a trial's run, and keep the result of one that was trained to the end."""
        trial, run = self._trials[name], self._runs[name]
        state = _state(trial, result)
        metrics = {key.removeprefix("val/"): value for key, value in val_scores(result).items()}
        run.log_summary(
            {f"last/{key}": value for key, value in metrics.items()}
            | ({"train/seconds": result["seconds"]} if metrics else {})
        )
        run.finish({"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[state])
        outcome = Outcome(
            name,
            trial.point.distill_weight,
            trial.point.temperature,
            trial.seed,
            state,
            epoch=result.get("epoch", 0),
            seconds=result.get("seconds", 0.0),
            metrics=metrics,
            reason=result.get("failure", ""),
            run_id=run.run_id,
        )
        self.outcomes[name] = outcome
        if state == "finished":
            write_json(trial.result_uri, vars(outcome))
        self._say(trial, outcome)

    def _say(self, trial: Trial, outcome: Outcome) -> None:
        count = f"{len(self.outcomes)}/{len(self._trials)}"
        start = f"{count}  {trial.point.as_text()}, seed {trial.seed}  {outcome.state}:"
        if outcome.state == "failed":
            reason = outcome.reason.partition("\n")[0]
            self._progress.warn(f"{start} {reason}")
        else:
            top1, nll = (outcome.metrics[name] for name in ("top1", "nll"))
            self._progress.say(f"{start} top-1 {top1:.1%}, NLL {nll:.3f}, {outcome.seconds:.0f} s")


def _publish(plan: SweepPlan, outcomes: list[Outcome], run: TrackedRun) -> dict[str, Any]:
    """Write table and heat map, here and in MLflow; return what goes into ``sweep.json``."""
    table, figure = sweep_table(outcomes), heatmap_figure(plan.config, outcomes)
    values = sweep_values(outcomes) | {
        "name": plan.name,
        "root_digest": plan.root_digest,
        "grid": plan.config.sweep.model_dump(mode="json"),
        "run_id": run.run_id,
        "link": run.link,
    }
    write_bytes(join_uri(plan.folder, "sweep.csv"), sweep_csv(outcomes).encode())
    write_bytes(join_uri(plan.folder, "heatmap.png"), figure_png(figure))
    run.log_text("sweep/table.txt", table)
    run.log_text("sweep/trials.csv", sweep_csv(outcomes))
    run.log_text("sweep/sweep.json", readable_json(values).decode())
    run.log_figure("sweep/heatmap.png", figure)
    print(table)
    print(f"{plan.folder}/heatmap.png")
    num_failed = sum(outcome.state == "failed" for outcome in outcomes)
    summary: dict[str, float] = {"sweep/trials": len(outcomes), "sweep/failed": num_failed}
    if (best := best_cell(cells_of(outcomes))) is not None:
        weight, temperature = best.point.distill_weight, best.point.temperature
        summary |= {"best/top1": best.top1.mean, "best/nll": best.nll.mean}
        summary |= {"best/distill_weight": weight, "best/temperature": temperature}
        print(
            f"The best cell's student: python jobs/train_student.py CONFIG "
            f"loss.distill_weight={weight:g} loss.temperature={temperature:g}"
        )
    run.log_summary(summary)
    return values


def _open_parent(plan: SweepPlan) -> TrackedRun:
    any_trial = plan.trials[-1].plan  # the one with the highest weight
    run = open_run(
        plan.config,
        stage="sweep",
        name=plan.name,
        key=plan.key,
        sections=("sweep", "student", "loss", "optim", "train"),
        tags=store_tags(any_trial),
    )
    run.log_dataset(
        "logit-store",
        digest=plan.root_digest,
        uri=plan.trials[0].plan.store_uri,
        context="training",
    )
    return run


def _read(trial: Trial) -> Outcome:
    return Outcome(**read_json(trial.result_uri))


def _state(trial: Trial, result: Mapping[str, Any]) -> Any:
    if "failure" in result:
        return "failed"
    whole = result.get("epoch") == trial.plan.recipe.train.epochs
    return "finished" if whole else "stopped"


def _num_cpus(config: ExperimentConfig) -> int:
    """Return the CPUs of a trial: its threads, or the one that feeds a GPU."""
    return 1 if config.cluster.use_gpu else config.cluster.worker_threads


def _last_line(error: BaseException | None) -> str:
    return traceback.format_exception_only(error)[-1].strip() if error else "ended without a word"

"""The ablation of the paper, on Ray Tune: many students from one logit store.

::

    plan      the store is checked once; every trial is a plan of its own
    tune      trials that have no result yet, as many at once as the cluster has CPUs for
    publish   table, CSV and heat map; sweep.json last

Trials report to the driver, which logs each as a child of the sweep's run in MLflow and writes its
result when it is finished. After any interruption the same command trains what is missing.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import PipelineError, TrialsFailed
from pipeline.results.intervals import units_of
from pipeline.results.sweep import Outcome, SweepResult, answers_by_video, heatmap_figure
from pipeline.results.training_run import log_epoch, log_store, store_tags, val_scores
from pipeline.stages.cluster import check_importable, ray_session
from pipeline.stages.forecast import training_costs
from pipeline.stages.workers import Follower, Message, ReportingWorker
from pipeline.storage import files
from pipeline.storage.arrow import arrow_filesystem
from pipeline.storage.files import exists, join_uri, read_record, write_record
from pipeline.tracking.progress import Progress, duration
from pipeline.tracking.run import TrackedRun, figure_png, open_run
from pipeline.training.loop import EpochResult, run_worker
from pipeline.training.step import Training
from pipeline.training.sweep import SweepPlan, Trial
from pipeline.training.train_plan import TrainPlan

if TYPE_CHECKING:
    from ray.tune import ResultGrid

# Read by Ray Tune when it is used.
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job, as everywhere
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a table of its own even at verbosity 0
}


def run_sweep(plan: SweepPlan, ray_address: str) -> dict[str, Any]:
    """Train every student of a sweep; return the content of ``sweep.json``.

    Raises:
        TrialsFailed: if a trial failed, after all others were trained and the table was written.
    """
    print(plan.as_text(), flush=True)
    result_uri = join_uri(plan.folder, "sweep.json")
    if exists(result_uri):
        print("swept already, nothing to do")
        result = read_record(result_uri)
        print(_result(plan, [Outcome(**values) for values in result["trials"]]).table)
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
    # After the end of the run: a job killed before this line publishes again, to MLflow as well.
    write_record(result_uri, result)
    print(result["link"])
    return result


def _train(plan: SweepPlan, run: TrackedRun, ray_address: str) -> list[Outcome]:
    """Train the trials that have no result yet; return the outcomes of all, in their order."""
    done = {
        trial.name: Outcome(**read_record(trial.result_uri))
        for trial in plan.trials
        if exists(trial.result_uri)
    }
    missing = [trial for trial in plan.trials if trial.name not in done]
    if done:
        print(f"{len(done)} of {len(plan.trials)} trials are trained already", flush=True)
    if missing:
        num_cpus = _num_cpus(plan.config)
        with ray_session(plan.config, ray_address, num_cpus=num_cpus, num_networks=1):
            check_importable(plan.config.student)
            print(_estimate(missing), flush=True)
            done |= _tune(plan, missing, run)
    return [done[trial.name] for trial in plan.trials]


def _estimate(trials: Sequence[Trial]) -> str:
    """Measure a few steps here, and say how long the trials will take on all CPUs or GPUs."""
    import ray

    plan = trials[0].plan
    resource, config = "GPU" if plan.config.cluster.use_gpu else "CPU", plan.config
    count = ray.cluster_resources()[resource]
    told = f"{len(trials)} trials on {count:g} {resource}s"
    if resource == "GPU" and not torch.cuda.is_available():
        return told  # the driver has none to measure on
    try:
        decode, step = training_costs(config, plan.recipe, plan.manifest)
    except PipelineError as error:  # the driver may not see the videos
        return f"{told}; how long they take is not known: {error}"
    order = plan.order
    num_clips = len(trials) * order.num_steps * order.global_batch_size
    seconds = num_clips * (step if resource == "GPU" else decode + step) / count
    return f"about {duration(seconds)} for {told}"


def _tune(plan: SweepPlan, trials: Sequence[Trial], run: TrackedRun) -> dict[str, Outcome]:
    """Train trials on Ray Tune; return their outcomes by name."""
    num_steps = sum(trial.plan.order.num_steps for trial in trials)
    with TrialRuns(trials, run) as runs, Follower("sweep", num_steps, runs.receive) as follower:
        results = _fit(plan, {trial.name: trial.plan for trial in trials}, follower.queue)
        for number in range(len(results)):
            if (error := results[number].error) is not None:
                failure = traceback.format_exception_only(error)[-1].strip()
                follower.queue.put({"run": Path(results[number].path).name, "failure": failure})
    return runs.outcomes


def _fit(plan: SweepPlan, plans: Mapping[str, TrainPlan], queue: Any) -> ResultGrid:
    """Run Ray Tune to the end, with a folder of the trial's name for each of ``plans``."""
    for name, value in TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns of files that are switched off
    filesystem, path = arrow_filesystem(plan.folder)
    return tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_work, plans=plans, queue=queue),
            {"cpu": _num_cpus(plan.config), "gpu": int(plan.config.cluster.use_gpu)},
        ),
        param_space={"trial": tune.grid_search(sorted(plans))},
        tune_config=tune.TuneConfig(trial_dirname_creator=lambda trial: str(trial.config["trial"])),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=plan.config.train.max_failures),
            verbose=0,
        ),
    ).fit()


def _work(setup: dict[str, Any], plans: Mapping[str, TrainPlan], queue: Any) -> None:
    """Train one student in a process of Ray Tune."""
    plan = plans[setup["trial"]]
    device = torch.device("cuda" if plan.config.cluster.use_gpu else "cpu")
    try:
        run_worker(plan, TrialWorker(device, plan, queue))
    except PipelineError as error:
        # Raised, Ray Tune would start the trial again, and it would fail again.
        queue.put({"run": plan.name, "failure": str(error)})


class TrialWorker(ReportingWorker):
    """The worker of a trial, which also reports the answers to single videos of val."""

    def __init__(self, device: torch.device, plan: TrainPlan, queue: Any) -> None:
        super().__init__(device, plan.name, queue)
        self._labels = torch.tensor(plan.labels(plan.val_rows))

    def report(self, epoch: EpochResult, training: Training) -> None:
        answers = answers_by_video(epoch.val_logits, self._labels)
        self._queue.put({"run": self._run, "answers": answers, **epoch.as_report()})


class TrialRuns:
    """The trials of a sweep in the driver: a run in MLflow, an outcome and a result for each.

    On leaving, the runs of trials that are not at their end are ended as KILLED.
    """

    def __init__(self, trials: Sequence[Trial], parent: TrackedRun) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._trials = {trial.name: trial for trial in trials}
        self._parent = parent
        self._runs: dict[str, TrackedRun] = {}

    def __enter__(self) -> TrialRuns:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._runs.keys() - self.outcomes.keys():
            self._runs[name].finish("KILLED")

    def receive(self, message: Message, progress: Progress) -> None:
        """Log an evaluated epoch; end the run after the last one, or when it failed."""
        trial = self._trials[message["run"]]
        if trial.name in self.outcomes:
            return  # Ray Tune starts a trial again whose process died after its last report
        run = self._open(trial)
        if "points" in message:
            log_epoch(run, message)
        if "failure" in message or message.get("epoch") == trial.plan.order.epochs:
            outcome = _outcome(trial, message, run.run_id)
            self._end(trial, outcome, run)
            count = f"{len(self.outcomes)}/{len(self._trials)}"
            start = f"{count}  {trial.point.as_text()}, seed {trial.seed}  {outcome.state}:"
            if outcome.state == "failed":
                progress.warn(f"{start} {outcome.reason.splitlines()[0]}")
            else:
                top1, nll = (outcome.metrics[name] for name in ("top1", "nll"))
                progress.say(f"{start} top-1 {top1:.1%}, NLL {nll:.3f}, {outcome.seconds:.0f} s")

    def _open(self, trial: Trial) -> TrackedRun:
        """Return a trial's run; one that is tried again keeps its own."""
        if trial.name not in self._runs:
            self._runs[trial.name] = open_run(
                trial.plan.config,
                stage="sweep_trial",
                name=trial.name,
                key=trial.plan.key,
                sections=("student", "loss", "optim", "train"),
                tags=store_tags(trial.plan),
                parent=self._parent,
            )
        return self._runs[trial.name]

    def _end(self, trial: Trial, outcome: Outcome, run: TrackedRun) -> None:
        finished = outcome.state == "finished"
        if finished:
            run.log_summary({f"last/{name}": value for name, value in outcome.metrics.items()})
            run.log_summary({"train/seconds": outcome.seconds})
        run.finish("FINISHED" if finished else "FAILED")
        self.outcomes[trial.name] = outcome
        if finished:
            write_record(trial.result_uri, vars(outcome))


def _outcome(trial: Trial, message: Message, run_id: str | None) -> Outcome:
    return Outcome(
        trial.name,
        trial.point.distill_weight,
        trial.point.temperature,
        trial.seed,
        "failed" if "failure" in message else "finished",
        epoch=message.get("epoch", 0),
        seconds=message.get("seconds", 0.0),
        metrics={name.removeprefix("val/"): value for name, value in val_scores(message).items()},
        answers=message.get("answers", {}),
        reason=message.get("failure", ""),
        run_id=run_id,
        kind=trial.point.kind,
    )


def _result(plan: SweepPlan, outcomes: list[Outcome]) -> SweepResult:
    any_trial = plan.trials[0].plan  # all have the same videos of val
    records = any_trial.manifest.records
    return SweepResult(outcomes, units_of([records[row].group for row in any_trial.val_rows]))


def _publish(plan: SweepPlan, outcomes: list[Outcome], run: TrackedRun) -> dict[str, Any]:
    """Publish table and heat map in the folder and in MLflow; return what ``sweep.json`` holds."""
    swept = _result(plan, outcomes)
    table, figure = swept.table, heatmap_figure(plan.config, swept)
    values = swept.as_values() | {
        "name": plan.name,
        "root_digest": plan.root_digest,
        "grid": plan.config.sweep.model_dump(mode="json"),
        "run_id": run.run_id,
        "link": run.link,
    }
    files.write_bytes(join_uri(plan.folder, "sweep.csv"), swept.csv.encode())
    files.write_bytes(join_uri(plan.folder, "heatmap.png"), figure_png(figure))
    run.log_text("sweep/table.txt", table)
    run.log_text("sweep/trials.csv", swept.csv)
    run.log_text("sweep/sweep.json", files.readable_json(values).decode())
    run.log_figure("sweep/heatmap.png", figure)
    print(f"{table}\n{plan.folder}/heatmap.png")
    num_failed = sum(outcome.state == "failed" for outcome in outcomes)
    summary: dict[str, float] = {"sweep/trials": len(outcomes), "sweep/failed": num_failed}
    if (best := swept.best) is not None:
        weight, temperature, kind = best.point
        summary |= {"best/top1": best.top1.mean, "best/nll": best.nll.mean}
        summary |= {"best/distill_weight": weight, "best/temperature": temperature}
        print(
            f"The best cell's student: python jobs/train_student.py CONFIG "
            f"loss.kind={kind} loss.distill_weight={weight:g} loss.temperature={temperature:g}"
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
        # sweep.json is missing, so the sweep is unfinished even if MLflow says FINISHED.
        reopen_finished=True,
    )
    log_store(run, any_trial)
    return run


def _num_cpus(config: ExperimentConfig) -> int:
    """Return the CPUs of a trial: its threads, or the one that feeds a GPU."""
    return 1 if config.cluster.use_gpu else config.cluster.worker_threads

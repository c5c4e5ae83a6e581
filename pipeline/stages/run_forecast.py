"""A forecast of an experiment: its manifest counted, its unit costs measured here or elsewhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from pipeline.config.load import ExperimentConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import ConfigError
from pipeline.frames.sources import read_source
from pipeline.logits.layout import StoreSpec, plan_store, plan_units
from pipeline.results.forecast import ClusterShape, RunForecast, UnitCosts, Workload, forecast
from pipeline.storage.files import read_json, write_json


@dataclass(frozen=True)
class ExperimentForecast:
    """The forecast and the costs that it stands on."""

    costs: UnitCosts
    run: RunForecast

    def as_text(self) -> str:
        """Return both as one table."""
        parts = [
            f"{name.removesuffix('_seconds').replace('_', ' ')} {1000 * seconds:.3g}"
            for name, seconds in asdict(self.costs).items()
        ]
        return f"ms a clip              {', '.join(parts)}\n{self.run.as_text()}"


def forecast_experiment(
    config: ExperimentConfig, shape: ClusterShape, *, costs_uri: str | None = None
) -> ExperimentForecast:
    """Predict stage one and the student's training on a cluster.

    Args:
        config: an experiment that is indexed.
        shape: of the cluster.
        costs_uri: of costs that were measured elsewhere; without, they are measured here, for
            which the teacher's weights must be there.

    Raises:
        StoreIncomplete: if there is no manifest.
        ConfigError: if the file of costs makes no sense, or the cluster has no CPU.

    """
    manifest = read_source(config)
    if costs_uri is None:
        from pipeline.networks.teacher import teacher_digest  # torch
        from pipeline.stages.forecast import measure_costs

        spec = plan_store(config, manifest=manifest, teacher_digest=teacher_digest(config))
        costs = measure_costs(config, manifest, spec)
    else:
        spec = plan_store(config, manifest=manifest, teacher_digest="")  # to count with
        costs = _read_costs(costs_uri)
    try:
        run = forecast(costs, shape, plan_workload(config, manifest, spec))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return ExperimentForecast(costs, run)


def plan_workload(config: ExperimentConfig, manifest: Manifest, spec: StoreSpec) -> Workload:
    """Count what stage one and one student have to do."""
    return Workload(
        num_cached_clips=sum(len(unit.coordinates) for unit in plan_units(spec, manifest.records)),
        num_classes=spec.num_classes,
        num_frames=spec.num_frames,
        num_train_clips=len(manifest.rows_of("train")),
        num_epochs=config.train.epochs,
    )


def write_costs(uri: str, costs: UnitCosts) -> None:
    """Write costs for another machine's forecast."""
    write_json(uri, asdict(costs))


def _read_costs(uri: str) -> UnitCosts:
    try:
        return UnitCosts(**read_json(uri))
    except (FileNotFoundError, ValueError, TypeError) as error:
        names = ", ".join(field.name for field in fields(UnitCosts))
        raise ConfigError(f"{uri} must be a JSON object with {names}: {error}") from error

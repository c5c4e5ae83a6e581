"""The page about an experiment, written below its artefacts and kept by MLflow."""

from __future__ import annotations

from pipeline.config.experiment import ExperimentConfig
from pipeline.results.page.page import write_report
from pipeline.storage.files import read_bytes, sha256_of
from pipeline.tracking.run import open_run


def run_report(config: ExperimentConfig) -> str:
    """Write the page and return its URI; MLflow keeps the newest in one run.

    StoreIncomplete if not even the videos are indexed; DatasetError if their manifest is damaged.
    """
    uri = write_report(config)
    print(f"One page about all of it: {uri}", flush=True)
    run = open_run(
        config,
        stage="report",
        name=f"report {config.dataset.name}",
        key=sha256_of(config.artefacts.encode()),
        sections=(),
        tags={},
        reopen_finished=True,
    )
    with run:
        run.log_artifact("report.html", read_bytes(uri))
    return uri

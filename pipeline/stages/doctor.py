"""Examine the sealed store of an experiment, say what was found, and refuse to call it sound."""

from __future__ import annotations

from pipeline.config.load import ExperimentConfig
from pipeline.errors import StoreUnsound
from pipeline.frames.sources import read_source
from pipeline.logits.examine import examine
from pipeline.logits.generations import find_generation, read_spec
from pipeline.logits.identity import build_identity
from pipeline.logits.store import open_store
from pipeline.stages.doctor_report import report_text, report_values
from pipeline.stages.live_check import check_against_teacher
from pipeline.storage.files import write_json


def run_doctor(config: ExperimentConfig, *, num_verified: int, json_uri: str | None) -> None:
    """Examine the store; print a report and write it as JSON if that is asked for.

    Args:
        config: the experiment.
        num_verified: cells to ask the live teacher about; 0 needs neither teacher nor videos.
        json_uri: where the report goes for machines.

    Raises:
        StoreIncomplete: if there is no sealed store, or no manifest.
        FingerprintMismatch: if the store is not of this config and manifest.
        StoreCorrupt: if seal or identity are damaged, so that nothing else can be said.
        StoreUnsound: if anything was found.

    """
    manifest = read_source(config)
    digest = read_spec(config.store_uri).teacher_digest  # the teacher need not be here
    identity = build_identity(config, manifest=manifest, teacher_digest=digest)
    store = open_store(find_generation(config.store_uri, identity))
    diagnosis = examine(store, manifest.records, config.views)
    damaged = any(found.kind == "damaged file" for found in diagnosis.findings)
    live = None
    if num_verified and not damaged:  # a damaged store cannot be read as a whole
        live = check_against_teacher(config, store, manifest, num_verified)
    findings = [*diagnosis.findings, *(live.findings if live else [])]
    print(report_text(store, diagnosis, live, findings, manifest.class_names))
    if json_uri is not None:
        write_json(json_uri, report_values(store, diagnosis, live, findings))
    if findings:
        kinds = ", ".join(sorted({found.kind for found in findings}))
        raise StoreUnsound(f"{len(findings)} findings in {store.root}: {kinds}")

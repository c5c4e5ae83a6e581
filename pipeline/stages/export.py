"""The export of a student to other runtimes; every file is measured before it is published.

::

    plan      which weights, which formats; their packages are there
    write     the folded graph in each format; int8 with calibration clips of train
    measure   every file runs over all of val, beside the network itself
    publish   files, model card, a run in MLflow; export.json last
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dvflnet.cost import count_parameters
from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import ConfigError, DatasetError, ExportMismatch
from pipeline.frames.source import read_source
from pipeline.logits.spec import TRANSFORM_VERSION
from pipeline.logits.store import open_store
from pipeline.networks.trained import TrainedNetwork, load_trained
from pipeline.results.export import contract as contracts
from pipeline.results.export import executorch, measured, onnx, pt2
from pipeline.results.export.measured import NETWORK, Measured
from pipeline.results.figures import COLOURS
from pipeline.storage import files
from pipeline.storage.files import join_uri, sha256_of
from pipeline.storage.sealed.identity import canonical_json
from pipeline.tracking.progress import Progress
from pipeline.tracking.run import open_run
from pipeline.training.plan import own_students
from pipeline.views.loader import ClipLoader, ClipRequest
from pipeline.views.view import keyed_hash

EXPORT = "export.json"
MAX_DIFFERENCE = 1e-3  # of a logit, in float32
FORMAT_MODULES = {"pt2": pt2, "onnx": onnx, "executorch": executorch}


@dataclass(frozen=True)
class ExportPlan:
    """An export: the student, the formats, and the videos for calibration and measurement."""

    config: ExperimentConfig
    manifest: Manifest
    trained: TrainedNetwork
    formats: tuple[contracts.Format, ...]
    num_calibration_clips: int

    @property
    def val_rows(self) -> list[int]:
        return self.manifest.rows_of("val")

    @property
    def calibration_rows(self) -> list[int]:
        """Rows of train that int8 is calibrated with, chosen by a hash."""
        rows, records = self.manifest.rows_of("train"), self.manifest.records
        shuffled = sorted(rows, key=lambda row: keyed_hash("calibration", records[row].sample_id))
        return shuffled[: self.num_calibration_clips]

    @cached_property
    def versions(self) -> dict[str, str]:
        packages = [package for name in self.formats for package in contracts.PACKAGES[name]]
        return {name: version(name) for name in ("torch", *packages)}

    @cached_property
    def key(self) -> str:
        """Digest of everything that decides the files and their figures."""
        decisive = {
            "contract": contracts.contract_of(self.trained),
            "versions": self.versions,
            "calibration_clips": self.num_calibration_clips,
            "manifest": self.manifest.digest,
            "transform": TRANSFORM_VERSION,
        }
        return sha256_of(canonical_json(decisive))

    @property
    def folder(self) -> str:
        name = f"{self.trained.name}-{self.key[:8]}"
        return join_uri(self.config.artefacts, "exports", name)

    def as_text(self) -> str:
        int8 = f"int8 calibrated with {len(self.calibration_rows)} clips of train"
        others = [name for name in contracts.FORMATS if name not in self.formats]
        return (
            f"student  {self.trained.name}\n"
            f"formats  {', '.join(self.formats)}; {int8}\n"
            + (f"not      {', '.join(others)} (make install-export)\n" if others else "")
            + f"measured on {len(self.val_rows)} videos of val\n"
            f"results  {self.folder}"
        )


def plan_export(
    config: ExperimentConfig,
    *,
    weights: str | None = None,
    formats: Sequence[str] = (),
    num_calibration_clips: int = 128,
) -> ExportPlan:
    """Find the student and check that it can be exported; writes nothing.

    ``weights`` is the URI of a file that train_student wrote; without it the experiment's own
    DVFL-Net is exported, and without ``formats`` to those whose packages are installed.
    int8 is calibrated with ``num_calibration_clips`` of train, at least 1.

    ConfigError where packages are missing; WeightsMismatch for a student of other classes;
    DatasetError without a video of val or train to measure or calibrate with.
    """
    found = contracts.check_formats(formats)
    if num_calibration_clips < 1:
        raise ConfigError(f"--calibration-clips must be at least 1, got {num_calibration_clips}")
    manifest = read_source(config)
    trained = load_trained(weights or own_students(config)[-1], config, manifest.class_names)
    trained.check_classes(manifest.class_names)
    for split in ("train", "val"):
        if not manifest.rows_of(split):
            raise DatasetError(f"there is no good video of {split}; export measures every file")
    return ExportPlan(config, manifest, trained, found, num_calibration_clips)


def run_export(plan: ExportPlan) -> dict[str, Any]:
    """Write, measure and publish; return what ``export.json`` holds.

    ExportMismatch if a float32 file does not compute what the network does.
    """
    print(plan.as_text(), flush=True)
    uri = join_uri(plan.folder, EXPORT)
    if files.exists(uri):
        result = files.read_record(uri)
        print(f"exported already, nothing to do\n\n{result['text']}")
        return result
    torch.set_num_threads(plan.config.cluster.worker_threads)
    with TemporaryDirectory(prefix="dvflnet-export-") as folder:
        paths = _write(plan, Path(folder))
        found = _measure(plan, paths)
        _check(found)
        result = _publish(plan, paths, found)
    print(f"\n{result['text']}\n\nresults: {plan.folder}\n{result['link']}")
    return result


def _write(plan: ExportPlan, folder: Path) -> dict[str, Path]:
    """Write the files; return their paths by name, such as ``onnx int8``."""
    calibration_clips = np.concatenate(list(_clips(plan, plan.calibration_rows)))
    material = contracts.build_material(plan.trained, calibration_clips)
    paths: dict[str, Path] = {}
    for name in plan.formats:
        print(f"writing {name}", flush=True)
        paths |= FORMAT_MODULES[name].write_files(material, folder)
    return paths


def _clips(plan: ExportPlan, rows: Sequence[int]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the evaluation clips of rows, uint8 ``(B, T, H, W, 3)``."""
    recipe, size = plan.trained.recipe, plan.config.evaluate.batch_size
    requests = [
        ClipRequest(row, record, recipe.evaluation_view(record), recipe.frame_stride)
        for row in rows
        for record in [plan.manifest.records[row]]
    ]
    wanted = [requests[start : start + size] for start in range(0, len(requests), size)]
    limits = plan.config.dataset.limits
    with ClipLoader(recipe.train.num_loaders, limits, side=recipe.side) as loader:
        yield from (batch.frames for batch in loader.batches(wanted))


def _measure(plan: ExportPlan, paths: Mapping[str, Path]) -> dict[str, Measured]:
    """Run the network and all files over val; the network comes first."""
    network = plan.trained.on(torch.device("cpu"), precision="float32")  # as training evaluates it

    def as_trained(clips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network.logits(clips, None))

    programs: dict[str, contracts.Program] = {NETWORK: as_trained} | {
        name: FORMAT_MODULES[name.split()[0]].load(path) for name, path in paths.items()
    }
    rows = plan.val_rows
    with Progress("measure", len(rows), "videos") as progress:

        def counted() -> Iterator[npt.NDArray[np.uint8]]:
            for clips in _clips(plan, rows):
                yield clips
                progress.advance(len(clips))

        logits = measured.logits_of(programs, counted())
    labels = torch.tensor([plan.manifest.records[row].label_number for row in rows])
    reference, shape = logits[NETWORK], plan.trained.recipe.clip_shape
    return {
        name: measured.measure(program, logits[name], reference, labels, shape)
        for name, program in programs.items()
    }


def _check(found: Mapping[str, Measured]) -> None:
    """Refuse float32 files that compute something else; int8 is not exact, and only shown."""
    for name, values in found.items():
        if name.endswith("float32") and not values.max_difference <= MAX_DIFFERENCE:
            raise ExportMismatch(
                f"{name} differs from the network by up to {values.max_difference:.2g} in a logit, "
                f"on the clips of val; {MAX_DIFFERENCE:g} is allowed. Nothing was published. "
                "Another version of its packages may do; constraints.txt has those that are tested."
            )


def _publish(
    plan: ExportPlan, paths: Mapping[str, Path], found: Mapping[str, Measured]
) -> dict[str, Any]:
    """Publish the files, the model card and a run; ``export.json`` last."""
    contents = {path.name: path.read_bytes() for path in paths.values()}
    entries = {
        name: {"file": path.name, "num_bytes": len(content), "sha256": sha256_of(content)}
        for name, path in paths.items()
        for content in [contents[path.name]]
    }
    text = measured.export_table(entries, found)
    card = measured.model_card(plan.trained, _facts(plan, found[NETWORK]), text)
    contents[measured.MODEL_CARD] = card.encode()
    for file, content in contents.items():
        files.write_bytes(join_uri(plan.folder, file), content)
    result = {
        "name": plan.trained.name,
        "contract": contracts.contract_of(plan.trained),
        "versions": plan.versions,
        "platform": platform.platform(),
        "num_val_videos": len(plan.val_rows),
        "files": entries,
        "measured": {name: asdict(values) for name, values in found.items()},
        "text": text,
    }
    result["link"] = _track(plan, contents, found, result)
    files.write_record(join_uri(plan.folder, EXPORT), result)
    return result


def _track(
    plan: ExportPlan,
    contents: Mapping[str, bytes],
    found: Mapping[str, Measured],
    result: Mapping[str, Any],
) -> str:
    """Log a run with all files; return the URL of its page."""
    trained = plan.trained
    tags = {
        "exported": trained.name,
        "exported.sha256": trained.digest,
        "cache.root_digest": trained.root_digest,
        "mlflow.runColor": COLOURS["student"],
    }
    run = open_run(
        plan.config,
        stage="export",
        name=f"export {trained.name}",
        key=plan.key,
        sections=(),
        tags=tags,
        reopen_finished=True,  # until export.json is written, the work is not done
    )
    with run:
        for file, values in found.items():
            for metric in ("top1", "nll", "agreement", "max_difference"):
                run.log_summary({f"{file}/{metric}": getattr(values, metric)})
            run.log_summary({f"{file}/p50_ms": values.latency.p50_ms})
        for file, content in contents.items():
            run.log_artifact(f"export/{file}", content)
        run.log_text(f"export/{EXPORT}", files.readable_json(result).decode())
        return run.link


def _facts(plan: ExportPlan, network: Measured) -> dict[str, str]:
    """Return the lines of a model card about data, lineage and quality, by their titles."""
    trained, uri = plan.trained, plan.trained.config.store_uri
    teacher = f"not known here: there is no store {uri}"
    if files.exists(join_uri(uri, "seal.json")):
        store, teacher = open_store(uri), f"not known here: {uri} is another store now"
        if store.root_digest == trained.root_digest:
            teacher = store.spec.teacher_digest
    num_train, num_val = len(plan.manifest.rows_of("train")), len(plan.val_rows)
    return {
        "Data set": f"{plan.config.dataset.name}, {num_train} videos of train, {num_val} of val",
        "Manifest digest": plan.manifest.digest,
        "Weights digest": trained.digest,
        "Logit store, root digest": trained.root_digest,
        "Teacher digest": teacher,
        "Top-1 on val, 1x1 views": f"{network.top1:.1%} (NLL {network.nll:.3f})",
        "Parameters": f"{count_parameters(trained.network) / 1e6:.3f} million",
    }

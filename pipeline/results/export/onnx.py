"""ONNX, in float32 and in int8, run by ONNX Runtime.

The exporter is PyTorch's newer one, on top of ``torch.export``. int8 is static: weights a channel
each, activations by the range that calibration clips showed, as quantise-dequantise pairs that the
runtime merges into integer products. Documentation:
onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.results.export.contract import Material, Program, contract_of

QUANTISED = ("Conv", "Gemm", "MatMul")  # The rest costs little and stays in float32.


def write_files(material: Material, folder: Path) -> dict[str, Path]:
    """Write float32 and int8, the contract among the metadata; return their paths by name."""
    path, int8_path = folder / "student.onnx", folder / "student-int8.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # It warns that torchvision is missing.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch warns about its own calls.
        exported: Any = torch.onnx.export(
            material.program,
            dynamo=True,
            input_names=["clip"],
            output_names=["logits"],
            verbose=False,
        )
    for node in exported.model.graph:
        node.metadata_props.clear()  # stack traces, which name source files of this machine
    exported.model.metadata_props.update(contract_of(material.trained))
    exported.save(str(path))
    _quantise(path, int8_path, material.clips)
    return {"onnx float32": path, "onnx int8": int8_path}


def _quantise(source: Path, path: Path, clips: npt.NDArray[np.uint8]) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    inputs = ({"clip": clip} for clip in clips[:, None])
    with TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            path,
            SimpleNamespace(get_next=lambda: next(inputs, None)),  # None after the last
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
        )


def load(path: Path) -> Program:
    """Load a file to run it on the CPU, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(clips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = session.run(["logits"], {"clip": clips})[0]
        return logits

    return run

"""ExecuTorch (.pte) for phones, in float32 and in int8, its arithmetic done by XNNPACK.

int8 is PyTorch's own quantisation of an exported graph: XNNPACK's quantiser marks the operations
that it has in integers, and torchao takes their ranges from calibration clips.

A file takes one clip at a time: ExecuTorch plans its memory ahead, and its lowering (1.5) fixes an
open batch to that of the example. Documentation:
docs.pytorch.org/executorch/stable/backends-xnnpack.html.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from torch import Tensor

from dvflnet.deployed import trace
from pipeline.results.export.contract import Material, Program, as_program, contract_of

_CONTRACT = "contract"  # a method of the file that returns it


def write_files(material: Material, folder: Path) -> dict[str, Path]:
    """Write float32 and int8; return their paths by name.

    The contract, as JSON, is what the files' method ``contract`` returns.
    """
    path, int8_path = folder / "student.pte", folder / "student-int8.pte"
    program = trace(material.module, material.trained.recipe.clip_shape, any_batch=False)
    contract = json.dumps(contract_of(material.trained, "1"))
    path.write_bytes(_lowered(program, contract))
    int8_path.write_bytes(_lowered(_quantised(material), contract))
    return {"executorch float32": path, "executorch int8": int8_path}


def _lowered(program: torch.export.ExportedProgram, contract: str) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], constant_methods={_CONTRACT: contract}
    )
    return bytes(lowered.to_executorch().buffer)


def _quantised(material: Material) -> torch.export.ExportedProgram:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    settings = get_symmetric_quantization_config(is_per_channel=True)
    watching = prepare_pt2e(copy.deepcopy(material.module), XNNPACKQuantizer().set_global(settings))
    with torch.inference_mode():
        for clip in material.clips:
            watching(torch.from_numpy(clip[None]))
    return trace(convert_pt2e(watching), material.trained.recipe.clip_shape, any_batch=False)


def load(path: Path) -> Program:
    """Load a file to run it on this machine."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def logits(clips: Tensor) -> Tensor:
        # The runtime uses the memory of an answer again, so each one is copied.
        return torch.cat([method.execute([clip[None]])[0].clone() for clip in clips])

    return as_program(logits)

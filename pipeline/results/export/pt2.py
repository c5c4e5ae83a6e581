"""PyTorch's own format (.pt2): a graph and its weights, run by PyTorch without our code.

Documentation: pytorch.org/docs/stable/export.html.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pipeline.results.export.contract import Material, Program, as_program, contract_of

_CONTRACT = "contract.json"  # file inside the archive


def write_files(material: Material, folder: Path) -> dict[str, Path]:
    """Write the program, with its contract as an extra file inside; return its path by name."""
    path = folder / "student.pt2"
    text = json.dumps(contract_of(material.trained), indent=2)
    torch.export.save(material.program, path, extra_files={_CONTRACT: text})
    return {"pt2 float32": path}


def load(path: Path) -> Program:
    """Load a file to run it on the CPU."""
    return as_program(torch.export.load(path).module())

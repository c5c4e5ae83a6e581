"""The formats that a student is exported to, and the packages that each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError

Format = Literal["pt2", "onnx", "executorch"]
FORMATS: tuple[Format, ...] = get_args(Format)
PACKAGES: dict[Format, tuple[str, ...]] = {
    "pt2": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "executorch": ("executorch", "torchao"),
}
# An exported file, loaded: uint8 clips (B, T, H, W, 3) -> float32 logits (B, K).
Program = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def check_formats(names: Sequence[str]) -> tuple[Format, ...]:
    """Return the formats of these names, all for none, in their own order.

    Raises:
        ConfigError: if there is no such format, or its packages are not installed.

    """
    if unknown := sorted(set(names) - set(FORMATS)):
        raise ConfigError(f"there is no format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    wanted = tuple(name for name in FORMATS if name in names or not names)
    for name in wanted:
        missing = [package for package in PACKAGES[name] if find_spec(package) is None]
        if missing:
            others = " ".join(other for other in wanted if other != name) or "pt2"
            raise ConfigError(
                f"the format {name} needs packages that are not installed: {', '.join(missing)}. "
                f"Run make install-export, or leave it out: --formats {others}"
            )
    return wanted

"""Weights on storage: safetensors for what we write, and a safe look into published checkpoints.

A published ``.pth`` is a zip with a pickle inside, and a pickle runs whatever it names. Here it is
read by an unpickler that knows a dozen harmless names and refuses all others. The published files
also hold their config, a pickled yacs node; it becomes a plain dict that nobody looks at.

Formats: github.com/huggingface/safetensors; pytorch.org/docs/stable/notes/serialization.html.
"""

from __future__ import annotations

import codecs
import io
import json
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch._utils
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dvflnet.weights import published_state, state_crc, state_digest
from pipeline.errors import WeightsMismatch
from pipeline.storage.files import local_copy, parse_json, read_bytes, write_bytes

_FOLDER_MARK = 0x10  # MS-DOS's, among the attributes of a zip's member
_PICKLED_SUFFIXES = (".pth", ".pt", ".ckpt")
_ALIGNMENT = 64  # bytes; a line of the caches, and what PyTorch gives its own tensors
_CRC, _DIGEST, _CLASS_NAMES = "crc32", "digest", "class_names"  # keys of the metadata


@dataclass(frozen=True)
class WeightFile:
    """Tensors by name, and the file's own text entries (none in a published checkpoint)."""

    state: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the head's classes, in its order; empty if the file does not say."""
        return tuple(parse_json(self.metadata.get(_CLASS_NAMES, "[]")))


def write_weights(
    uri: str,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    class_names: Sequence[str] = (),
) -> None:
    """Publish tensors as safetensors, all or nothing, with digest and CRC among the metadata.

    The digest says which weights these are; the CRC is what every reader checks them against.

    Args:
        uri: ends in ``.safetensors``.
        state: tensors by name, on any device.
        metadata: text entries of the caller's choice.
        class_names: names of the head's classes, in its order; read back as ``class_names``.

    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    entries = {**metadata, _DIGEST: state_digest(tensors)}
    if class_names:
        entries[_CLASS_NAMES] = json.dumps(list(class_names))
    entries[_CRC] = _crc(tensors, entries)
    write_bytes(uri, _aligned(safetensors.torch.save(tensors, entries)))


def read_weights(uri: str) -> WeightFile:
    """Read ``.safetensors``, or the state dict in a published ``.pth``, ``.pt`` or ``.ckpt``.

    Tensors of a safetensors file are mapped, not read: processes of one machine share their memory.

    Raises:
        WeightsMismatch: if there is no such file, it is damaged, or it is something else.

    """
    try:
        if uri.endswith(".safetensors"):
            return _read_safetensors(uri)
        if uri.endswith(_PICKLED_SUFFIXES):
            return WeightFile(_read_published(uri, read_bytes(uri)), metadata={})
    except FileNotFoundError as error:
        raise WeightsMismatch(f"there is no weights file {uri}") from error
    suffixes = ", ".join([".safetensors", *_PICKLED_SUFFIXES])
    raise WeightsMismatch(f"{uri} is not a weights file: its name must end in one of {suffixes}")


def _aligned(content: bytes) -> bytes:
    """Fill a safetensors header with blanks, so that the tensors begin at a multiple of 64 bytes.

    They are used where they lie in the mapped file, and the last bits of what kernels compute
    depend on where that is. So equal weights must lie alike, however much metadata is before them.
    """
    length = int.from_bytes(content[:8], "little")
    blanks = -(8 + length) % _ALIGNMENT
    header = content[8 : 8 + length] + b" " * blanks
    tensors = memoryview(content)[8 + length :]  # hundreds of megabytes: copied once, not twice
    return b"".join((len(header).to_bytes(8, "little"), header, tensors))


def _read_safetensors(uri: str) -> WeightFile:
    try:
        with local_copy(uri) as path, safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsMismatch(
            f"{uri} is no whole safetensors file: {error}. Fetch it or write it again."
        ) from error
    _check_whole(uri, state, metadata)
    weights = WeightFile(state, metadata)
    _check_class_names(uri, weights)
    return weights


def _check_whole(uri: str, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Refuse tensors that are not those that were written; a foreign file cannot be checked.

    Ours has both entries, so that a flipped bit in the name of one does not make it foreign.
    """
    if metadata.keys().isdisjoint({_CRC, _DIGEST}):
        return
    expected, found = metadata.get(_CRC, "nothing"), _crc(state, metadata)
    if found != expected:
        raise WeightsMismatch(
            f"{uri} is damaged: its {_CRC} is {found}, and its metadata says {expected}. "
            "Fetch it or write it again."
        )


def _check_class_names(uri: str, weights: WeightFile) -> None:
    try:
        sound = all(isinstance(name, str) for name in weights.class_names)
    except (ValueError, TypeError):
        sound = False
    if not sound:
        found = weights.metadata[_CLASS_NAMES][:80]
        raise WeightsMismatch(f"{uri} must name its classes in a JSON list of texts, found {found}")


def _crc(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the CRC-32, in hexadecimal, of all tensors and of all entries but itself."""
    entries = sorted((key, value) for key, value in metadata.items() if key != _CRC)
    return f"{zlib.crc32(json.dumps(entries).encode(), state_crc(state)):08x}"


def _read_published(uri: str, content: bytes) -> dict[str, Tensor]:
    _check_archive(uri, content)
    try:
        if "constants.pkl" in torch._C.PyTorchFileReader(io.BytesIO(content)).get_all_records():
            # By this sign torch.load hands a file to torch.jit, past our unpickler.
            raise ValueError("it is a TorchScript program")
        # With a pickle module of our own, torch.load does not use its own one or Python's.
        checkpoint = torch.load(
            io.BytesIO(content), map_location="cpu", pickle_module=_RestrictedPickle
        )
        return published_state(checkpoint)
    except _MALFORMED as error:
        raise WeightsMismatch(
            f"{uri} is not a published checkpoint: {error}. Nothing of it was run. Only a state "
            "dict, bare or under 'model', can be read."
        ) from error


def _check_archive(uri: str, content: bytes) -> None:
    """Refuse all but an undamaged zip; torch.load looks at no checksum."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
            # A member with this mark is empty to PyTorch and not to zipfile.
            marked = [m.filename for m in archive.infolist() if m.external_attr & _FOLDER_MARK]
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError) as error:
        raise WeightsMismatch(
            f"{uri} is no whole checkpoint in PyTorch's zip format: it has {len(content)} bytes, "
            f"the first {content[:8]!r}. Fetch it again; if it is from before PyTorch 1.6, have a "
            "later one save it anew."
        ) from error
    if damaged is not None or marked:
        raise WeightsMismatch(f"{uri} is damaged in {damaged or marked[0]}. Fetch it again.")


class _InertNode(dict[Any, Any]):
    """Stands in for a yacs node; a subclass, as the pickle also sets attributes on it."""


_NUMPY_SCALAR = np.float64().__reduce__()[0]  # what numpy's pickles name in order to be read
_HARMLESS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "scalar"): _NUMPY_SCALAR,
    ("numpy._core.multiarray", "scalar"): _NUMPY_SCALAR,
    ("_codecs", "encode"): codecs.encode,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,  # its name in pickle protocol 2
    ("yacs.config", "CfgNode"): _InertNode,
}


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows what checkpoints are made of; torch.load adds the storages, from a list of its own."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return what a pickle names, if it is harmless.

        Raises:
            UnpicklingError: if it is not known to be.

        """
        if (module_name, global_name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return _HARMLESS[module_name, global_name]


class _RestrictedPickle:
    """What torch.load takes for a pickle module."""

    Unpickler = _RestrictedUnpickler


# What unpickling raises on bytes that make no sense; ValueError also stands for published_state.
_MALFORMED = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
)

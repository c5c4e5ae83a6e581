"""Weights on storage: safetensors for what we write, and safe reading of published checkpoints.

A published ``.pth`` is a zip with a pickle inside, and a pickle runs every function that it names.
Our unpickler builds tensors alone. What is usual beside them (a config, paths, arrays) becomes an
inert dict, of which only the config's plain values are read; every other name is refused.

Formats: github.com/huggingface/safetensors; pytorch.org/docs/stable/notes/serialization.html.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
import torch._utils
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dvflnet.weights import published_state, state_crc, state_digest
from pipeline.errors import WeightsMismatch
from pipeline.networks.published import described_network
from pipeline.storage.files import local_copy, parse_json, read_bytes, write_bytes

_FOLDER_MARK = 0x10  # MS-DOS's folder bit in the attributes of a zip's member
_PICKLED_SUFFIXES = (".pth", ".pt", ".ckpt")
_ALIGNMENT = 64  # bytes; a cache line, and PyTorch's own alignment of tensors
# Keys of the metadata.
_CRC, _DIGEST, _CLASS_NAMES, SOURCE = "crc32", "digest", "class_names", "source_sha256"


@dataclass(frozen=True)
class WeightFile:
    """Tensors by name, and the file's own text entries (none in a published checkpoint).

    ``stripped`` is the prefix that every name had in the file: ``module.`` and the like.
    ``described`` is the config inside a published checkpoint, by dotted key. ``head`` names the
    classes of a foreign network's head, if they are not ``class_names`` in their order.
    """

    uri: str
    state: dict[str, Tensor]
    metadata: dict[str, str]
    stripped: str = ""
    described: Mapping[str, Any] = field(default_factory=dict)
    head: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the head's classes, in its order; empty if the file names none."""
        return tuple(parse_json(self.metadata.get(_CLASS_NAMES, "[]")))


def write_weights(
    uri: str,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    class_names: Sequence[str] = (),
) -> None:
    """Publish tensors as safetensors, all or nothing, with digest and CRC among the metadata.

    The digest names the weights; every reader checks them against the CRC.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # The format has no tensors that share memory, as tied weights do.
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    for name, tensor in tensors.items():
        if owners[tensor.untyped_storage().data_ptr()] > 1:
            tensors[name] = tensor.clone()
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
            return _read_published(uri, read_bytes(uri))
    except FileNotFoundError as error:
        raise WeightsMismatch(f"there is no weights file {uri}") from error
    suffixes = ", ".join([".safetensors", *_PICKLED_SUFFIXES])
    raise WeightsMismatch(f"{uri} is not a weights file: its name must end in one of {suffixes}")


def _aligned(content: bytes) -> bytes:
    """Fill a safetensors header with blanks, so that the tensors begin at a multiple of 64 bytes.

    Kernels use them where they lie in the mapped file, and the last bits of a result depend on
    their alignment. So equal weights must lie alike, however long the metadata before them is.
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
    # A foreign file cannot be checked. Ours has both entries, so that a flipped bit in the name of
    # one does not make it foreign.
    if not metadata.keys().isdisjoint({_CRC, _DIGEST}):
        expected, found = metadata.get(_CRC, "nothing"), _crc(state, metadata)
        if found != expected:
            raise WeightsMismatch(
                f"{uri} is damaged: its {_CRC} is {found}, and its metadata says {expected}. "
                "Fetch it or write it again."
            )
    weights = WeightFile(uri, state, metadata)
    try:
        sound = all(isinstance(name, str) for name in weights.class_names)
    except (ValueError, TypeError):
        sound = False
    if not sound:
        named = metadata[_CLASS_NAMES][:80]
        raise WeightsMismatch(f"{uri} must name its classes in a JSON list of texts, found {named}")
    return weights


def _crc(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the CRC-32, in hexadecimal, of all tensors and of all entries but itself."""
    entries = sorted((key, value) for key, value in metadata.items() if key != _CRC)
    return f"{zlib.crc32(json.dumps(entries).encode(), state_crc(state)):08x}"


def _read_published(uri: str, content: bytes) -> WeightFile:
    _check_archive(uri, content)
    try:
        if "constants.pkl" in torch._C.PyTorchFileReader(io.BytesIO(content)).get_all_records():
            # torch.load would hand such a file to torch.jit, past our unpickler.
            raise ValueError("it is a TorchScript program")
        # With a pickle module of our own, torch.load does not use its own one or Python's.
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", pickle_module=_Pickle)
        state, stripped = published_state(checkpoint)
    except _MALFORMED as error:
        raise WeightsMismatch(
            f"{uri} is not a published checkpoint: {error}. Nothing of it was run. Only a state "
            "dict, bare or under 'model' or the like, can be read."
        ) from error
    try:
        described = described_network(checkpoint, state)
    except ValueError as error:
        raise WeightsMismatch(f"{uri}: {error}") from error
    return WeightFile(uri, state, metadata={}, stripped=stripped, described=described)


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


class _Inert(dict[Any, Any]):
    """Stands in for every object but tensors and their containers; it drops its arguments.

    Entries are kept, so that a state dict of another class than ``dict`` can be read.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


_REAL = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
# What published checkpoints hold beside the tensors: arguments, paths, numbers, schedules.
_BUILTIN = {"bool", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple"}
_BUILTIN |= {"long", "unicode"}  # the names of int and str in pickle protocol 2
_ARRAY = {"_reconstruct", "scalar"}
_PATH = {"PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"}
_INERT = {
    "_codecs": {"encode"},
    "argparse": {"Namespace"},
    "builtins": _BUILTIN,
    "__builtin__": _BUILTIN,  # the name in pickle protocol 2
    "collections": {"Counter", "defaultdict"},
    "datetime": {"date", "datetime", "timedelta"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": _ARRAY,
    "numpy._core.multiarray": _ARRAY,  # the name since NumPy 2
    "pathlib": _PATH,
    "pathlib._local": _PATH,  # the name in Python 3.13
    "torch": {"Size", "device"},
    "types": {"SimpleNamespace"},
    "yacs.config": {"CfgNode"},
}


class _RestrictedUnpickler(pickle.Unpickler):
    """Builds what is listed above; torch.load adds the storages, from a list of its own."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) in _REAL:
            return _REAL[module_name, global_name]
        if global_name in _INERT.get(module_name, ()):
            return _Inert
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")


class _Pickle:
    Unpickler = _RestrictedUnpickler


# Unpickling bytes that make no sense raises these; ValueError is also published_state's.
_MALFORMED = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
)

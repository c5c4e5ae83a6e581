"""The network in the form that is exported: from uint8 clips to logits, constants folded.

A published weight is laid out for reading: one matrix holds query, context and gates, and a
temporal kernel lacks an axis that its convolution needs. In eager PyTorch views of them cost
nothing. But compilers for phones delegate a product only if its weight is a constant, and quantise
only such weights. So everything that depends on weights alone is computed at export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from dvflnet.photometric import normalise, subtract_mean_frame


class ClipClassifier(nn.Module):
    """Map uint8 RGB clips ``(B, T, H, W, 3)`` to logits ``(B, K)``.

    ``motion_only`` subtracts each pixel's mean over the frames before the network runs.
    """

    def __init__(self, network: nn.Module, *, motion_only: bool) -> None:
        super().__init__()
        self.network = network
        self.motion_only = motion_only

    def forward(self, clip: Tensor) -> Tensor:
        clips = normalise(clip.permute(0, 1, 4, 2, 3))
        return self.network(subtract_mean_frame(clips) if self.motion_only else clips)


def trace(
    module: nn.Module, clip_shape: tuple[int, int, int, int], *, any_batch: bool = True
) -> torch.export.ExportedProgram:
    """Export a module of uint8 clips ``(B, T, H, W, 3)``, for any number of them or for one."""
    num_clips = 2 if any_batch else 1  # torch.export fixes the batch of an example of one
    example = torch.zeros((num_clips, *clip_shape), dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if any_batch else None
    return torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)


def folded(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """Return a program's module with everything computed that depends on weights alone.

    The stack traces that an exported graph carries are removed, too.
    """
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    constants: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in module.graph.nodes:
            node.meta.pop("stack_trace", None)
            inputs = set(node.all_input_nodes)
            if node.op == "get_attr":
                constants[node] = attrgetter(str(node.target))(module)
            elif node.op == "call_function" and inputs and inputs <= constants.keys():
                target: Callable[..., Any] = node.target
                args, kwargs = fx.map_arg((node.args, node.kwargs), constants.__getitem__)
                constants[node] = target(*args, **kwargs)
    _put_in(module, constants)
    return module


def _put_in(module: fx.GraphModule, constants: Mapping[fx.Node, Any]) -> None:
    """Replace computed nodes that something else needs by buffers."""
    graph, computed = module.graph, [n for n in constants if n.op == "call_function"]
    for number, node in enumerate(computed):
        if all(user in constants for user in node.users):
            continue
        # A copy: a view would bring the whole tensor that it shares memory with into the file.
        module.register_buffer(
            f"folded_{number}",
            constants[node].detach().clone(memory_format=torch.contiguous_format),
        )
        with graph.inserting_before(node):
            buffer = graph.get_attr(f"folded_{number}")
        buffer.meta = dict(node.meta)
        node.replace_all_uses_with(buffer, delete_user_cb=lambda user: user not in constants)
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    # The weights that parts were computed from go; a file would hold both.
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in module.state_dict().keys() - used:
        owner, _, leaf = name.rpartition(".")
        delattr(module.get_submodule(owner), leaf)

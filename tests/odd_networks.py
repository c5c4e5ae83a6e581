"""Networks that are not of the family, most of them broken, by ``tests.odd_networks:name``."""

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Mean colour of each frame, then a batch norm that is frozen, then a head; seeded."""

    def __init__(self, num_classes: int, num_frames: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.front = nn.Sequential(nn.Linear(3 * num_frames, 12), nn.BatchNorm1d(12))
            self.classifier = nn.Linear(12, num_classes)
        self.front.requires_grad_(False)

    def forward(self, clips: Tensor) -> Tensor:
        return self.classifier(self.front(clips.mean((3, 4)).flatten(1)))


good = Net
not_callable = 3


def no_module(num_classes, num_frames):
    return num_classes


def fails(num_classes, num_frames):
    raise OSError("no weights on this machine")


def all_frozen(num_classes, num_frames):
    return Net(num_classes, num_frames).requires_grad_(False)


def fresh(num_classes, num_frames):
    net = Net(num_classes, num_frames)
    nn.init.normal_(net.classifier.weight)
    return net


def changed(function):
    """Return a builder of ``good`` whose logits pass through ``function(logits, clips)``."""

    def build(num_classes, num_frames):
        net = Net(num_classes, num_frames)
        net.register_forward_hook(lambda _, args, logits: function(logits, args[0]))
        return net

    return build


one_class_more = changed(lambda logits, _: torch.cat([logits, logits[:, :1]], dim=1))
one_row_less = changed(lambda logits, _: logits[1:])
a_tuple = changed(lambda logits, _: (logits, logits))
integers = changed(lambda logits, _: logits.long())
not_finite = changed(lambda logits, _: logits / 0)
random = changed(lambda logits, _: logits + torch.rand_like(logits))
mixing = changed(lambda logits, _: logits - logits.mean(0))
only_64 = changed(lambda logits, clips: logits + clips.view(len(clips), 4, 3, 64, 64).sum())

"""What papers and repositories say that these networks cost, beside what their code costs.

Sources: arXiv 2507.12426 (DVFL-Net) and its repository, arXiv 2307.06947 (Video-FocalNets) and its
repository. Both count one clip of 8 frames of 224 x 224, and write "GFLOPs" for multiply-adds: they
count with thop, and tiny and small agree with ours to 0.3 % only so. A multiply-add is two floating
point operations, so true GFLOP are twice as many.
"""

from __future__ import annotations

from typing import NamedTuple

NUM_FRAMES, SIDE, NUM_CLASSES = 8, 224, 101


class Claim(NamedTuple):
    """A published variant: parameters in millions, and multiply-adds in billions if they say so."""

    params_millions: float
    gmacs: float | None


CLAIMS = {
    "nano": Claim(22, None),
    "tiny": Claim(49, 63),
    "small": Claim(88, 124),
    "base": Claim(157, 149),
}
CLAIMED_RATIO = 7.0  # of the abstract: the student is "about 7x" smaller than the teacher
NOTES = (
    'The papers\' "GFLOPs" are multiply-adds (GMAC); GFLOP are twice that.',
    "base: the published 149 is not what the published code computes. It is 4/3 as wide as small, "
    "and as deep, so it must cost about (4/3)^2 = 1.78 times small's 124.",
    "nano: no figure in the repositories.",
)

"""Cosines in float64, of which equal ones may be made to compare as equal.

The order in which a matrix product adds up differs from one machine, and one place of the matrix, to another. Rounded
to 40 binary places, the same vectors have the same cosines everywhere, so that ties are ties: the greedy
methods then take the lower position, as an argmax does.
"""

import torch
import torch.nn.functional as F

WITHOUT_FLOAT64 = ("mps",)  # devices: what is compared there, 2 MB of features an image, is compared on the CPU
_STEPS = 2.0**40  # of a cosine between 0 and 1


def exact(values: torch.Tensor) -> torch.Tensor:
    """`values` of any floating dtype as float64, without gradients; on the CPU where the device has no float64."""
    values = values.detach()
    return (values.cpu() if values.device.type in WITHOUT_FLOAT64 else values).double()


def unit_vectors(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors (..., C) of any floating dtype with length 1, float64; those of length 0 stay so."""
    copy = exact(vectors)
    return F.normalize(copy, dim=-1, out=copy if vectors.dtype is not torch.float64 else None)


def cosines(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(..., R, N) float64: the cosine of each of `rows` (..., R, C) and each of `columns` (..., N, C), unit vectors."""
    return rows @ columns.transpose(-1, -2)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Cosines, in place, rounded to 40 binary places."""
    return values.mul_(_STEPS).round_().mul_(1 / _STEPS)

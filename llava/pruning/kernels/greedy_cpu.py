"""The rules of `greedy` on the CPU. NumPy, since a pick's arrays are small and what it costs is the calls.

Shapes: N patches, T picks, R what is to be covered; arrays are float64.
"""

from collections.abc import Callable

import numpy as np

NOTHING = 2.0**-30  # of a diagonal entry: well above the rounding of float64, and below what float32 can tell


def pick(rule: str, matrix: np.ndarray, first: np.ndarray, weight: np.ndarray | None, number: int) -> np.ndarray:
    """(B, T) int64: see `greedy`."""
    weights = [None] * len(matrix) if weight is None else weight
    return np.stack([_RULES[rule](*image, number) for image in zip(matrix, first, weights)])


def _farthest(distance: np.ndarray, first: np.ndarray, _: None, number: int) -> np.ndarray:
    picked = np.empty(number, dtype=np.int64)
    nearest = None
    for step in range(number):
        picked[step] = i = (first if nearest is None else nearest).argmax()
        nearest = distance[i].copy() if nearest is None else np.minimum(nearest, distance[i], out=nearest)
        nearest[picked[: step + 1]] = -np.inf
    return picked


def _covering(values: np.ndarray, first: np.ndarray, weight: np.ndarray, number: int) -> np.ndarray:
    """Sums are exact, so that what a patch would add need not be added up anew: a pick takes away what it covers."""
    picked = np.empty(number, dtype=np.int64)
    gain, covered = first.copy(), np.zeros(len(values))
    is_left = np.ones(len(first), dtype=bool)
    for step in range(number):
        picked[step] = i = np.where(is_left, gain * weight, -np.inf).argmax()
        is_left[i] = False
        value = values[:, i]
        rows = np.flatnonzero(value > covered)
        before, now = covered[rows], value[rows]
        lost = np.clip(values[rows], before[:, None], now[:, None])
        gain -= np.ones(len(rows)) @ lost - before.sum()
        covered[rows] = now
    return picked


def _voluminous(kernel: np.ndarray, first: np.ndarray, _: None, number: int) -> np.ndarray:
    """A Cholesky factorization, a row for each pick; `volume` is what the kernel's diagonal has left.

    Less than a share of `NOTHING` is rounding, and nothing is left.
    """
    picked = np.empty(number, dtype=np.int64)
    volume, rows = first.copy(), np.empty((number, len(first)))
    for step in range(number):
        picked[step] = i = volume.argmax()
        rows[step] = 0
        if volume[i] > 0:
            before = rows[:step]
            rows[step] = (kernel[i] - before[:, i] @ before) / np.sqrt(volume[i])
        volume -= rows[step] ** 2
        volume[volume < NOTHING * first] = 0
        volume[picked[: step + 1]] = -np.inf
    return picked


_RULES: dict[str, Callable] = {"farthest": _farthest, "covering": _covering, "voluminous": _voluminous}

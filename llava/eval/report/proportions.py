"""How sure one can be of a share that was counted in a sample."""

import math
from statistics import NormalDist

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


def wilson_interval(hits: int, number: int) -> tuple[float, float]:
    """The 95 % score interval (low, high), in [0, 1], of the share that `hits` of `number` independent draws estimate.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the American Statistical
    Association 22 (1927), 209-212: with p = hits / n and z = 1.96,

        (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Raises ValueError unless 0 <= hits <= number and number >= 1.
    """
    if not 0 <= hits <= number or number < 1:
        raise ValueError(f"hits must be in [0, number] and number at least 1, got {hits} of {number}")
    share, square = hits / number, Z * Z / number
    middle = share + square / 2
    reach = math.sqrt(square * share * (1 - share) + square * square / 4)
    low, high = ((middle + side) / (1 + square) for side in (-reach, reach))
    # At the ends the bound is the share itself, which rounding may miss.
    return (0.0 if hits == 0 else low), (1.0 if hits == number else high)


def draws_needed(share: float, wanted: float) -> int | None:
    """How many draws it takes until the interval of `share` lies above `wanted`; None where no number is enough.

    The ends of Wilson's interval are the shares q for which (p - q)^2 = z^2 q (1 - q) / n: the lower one is at least
    `wanted` from n = z^2 wanted (1 - wanted) / (share - wanted)^2 on. All draws alike, share 1, take the fewest.
    """
    if not wanted < share:
        return None
    return max(1, math.ceil(Z * Z * wanted * (1 - wanted) / (share - wanted) ** 2))


def difference_by_chance(only_first: int, only_second: int) -> float:
    """How likely the difference of two shares of the same draws, or a larger one, is by chance (two-sided, exact).

    McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages", Psychometrika
    12 (1947), 153-157: draws that hit both or none say nothing, and of the n others a half hits only the first. With k
    the fewer of `only_first` and `only_second`, that is 2 P(X <= k) of the binomial distribution of n and 1/2.
    """
    number, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(number, hits) for hits in range(fewer + 1)) / 2**number)

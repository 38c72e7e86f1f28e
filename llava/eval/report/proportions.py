"""How sure one can be of a share that was counted in a sample."""

import math

LEVEL = 0.95
Z = 1.959963984540054  # within so many standard deviations a normal variable is with a probability of LEVEL


def wilson_interval(hits: int, number: int) -> tuple[float, float]:
    """The 95 % score interval (low, high), in [0, 1], of the share that `hits` of `number` independent draws estimate.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the American Statistical
    Association 22 (1927), 209-212. Raises ValueError unless 0 <= hits <= number and number >= 1.
    """
    from scipy.stats import binomtest

    interval = binomtest(hits, number).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


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
    12 (1947), 153-157: draws that hit both or none say nothing, and of the others a half hits only the first.
    """
    from scipy.stats import binomtest

    number = only_first + only_second
    return float(binomtest(only_first, number).pvalue) if number else 1.0

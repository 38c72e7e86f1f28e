"""Intervals of shares, against published ones, and how many questions it takes."""

import pytest

from llava.eval.report.proportions import difference_by_chance, draws_needed, wilson_interval


@pytest.mark.parametrize(
    ("hits", "number", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_of_newcombe_s_table(hits, number, low, high):
    """Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), 857."""
    assert wilson_interval(hits, number) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(number - hits, number) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_all_alike_is_1_and_less_than_nothing_is_refused():
    assert wilson_interval(7, 7)[1] == 1.0
    assert wilson_interval(0, 7)[0] == 0.0
    for hits, number in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError):
            wilson_interval(hits, number)


@pytest.mark.parametrize(("share", "wanted"), [(1.0, 0.99), (1.0, 0.9), (0.995, 0.99), (0.75, 0.5)])
def test_so_many_draws_and_no_fewer_lift_the_lower_end(share, wanted):
    needed = draws_needed(share, wanted)
    step = round(1 / (1 - share)) if share < 1 else 1  # numbers of draws that the share can be had of
    enough, too_few = -(-needed // step) * step, (needed - 1) // step * step
    assert wilson_interval(round(share * enough), enough)[0] >= wanted - 1e-12
    assert wilson_interval(round(share * too_few), too_few)[0] < wanted


def test_no_number_shows_what_is_not_above_the_wanted():
    assert draws_needed(0.99, 0.99) is None
    assert draws_needed(1.0, 1.0) is None
    assert draws_needed(1.0, 0.99) == 381


def test_a_difference_of_paired_shares_is_judged_by_those_that_differ():
    assert difference_by_chance(0, 0) == difference_by_chance(3, 3) == 1.0
    assert difference_by_chance(6, 0) == difference_by_chance(0, 6) == pytest.approx(2 / 64)
    assert difference_by_chance(5, 0) > 0.05
    # The two heads in ten tosses of a coin of a textbook: 2 (1 + 10 + 45) / 1024.
    assert difference_by_chance(2, 8) == pytest.approx(0.109375)

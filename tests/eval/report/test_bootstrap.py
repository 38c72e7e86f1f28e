"""The bootstrap on cases whose answer is known."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from llava.errors import InputError
from llava.eval.benchmarks import pope as eval_pope
from llava.eval.benchmarks.items import accuracy_items, make_items
from llava.eval.report import bootstrap
from llava.eval.report.bootstrap import DRAWS, draw_figures, interval


def accuracies(hits: np.ndarray, of_a_picture: int = 1) -> list:
    """The items of runs from their hits (R, N); so many questions in a row are about the same picture."""
    numbers = range(hits.shape[1])
    return [accuracy_items(numbers, [i // of_a_picture for i in numbers], row.tolist()) for row in hits]


def test_the_interval_of_an_accuracy_is_the_binomial_s():
    """Drawn hits have a binomial distribution: its exact quantiles, within the draws' own spread of a question."""
    right, questions = 320, 400
    (draws,) = draw_figures(accuracies(np.arange(questions)[None] < right))
    share = right / questions
    weights = [math.comb(questions, k) * share**k * (1 - share) ** (questions - k) for k in range(questions + 1)]
    cumulated = np.cumsum(weights)
    low, high = (np.searchsorted(cumulated, level) / questions * 100 for level in (0.025, 0.975))
    assert interval(draws) == pytest.approx((low, high), abs=100 / questions + 1e-9)
    assert draws.mean() == pytest.approx(100 * share, abs=5 * draws.std() / DRAWS**0.5)
    assert draws.std() == pytest.approx(100 * (share * (1 - share) / questions) ** 0.5, rel=0.04)


def covered(runs: list, truth: float) -> float:
    """The share of runs whose interval holds the truth."""
    ends = np.array([interval(draws) for draws in draw_figures(runs)])
    return ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()


def test_95_of_100_intervals_hold_the_truth():
    hits = np.random.default_rng(1).random((400, 200)) < 0.7
    assert covered(accuracies(hits), 70) == pytest.approx(0.95, abs=0.03)


def test_they_do_so_where_questions_about_a_picture_are_right_or_wrong_together():
    """Had questions been drawn, four alike to a picture, the interval would be half as wide."""
    hits = (np.random.default_rng(2).random((400, 100)) < 0.7).repeat(4, axis=1)
    assert covered(accuracies(hits, of_a_picture=4), 70) == pytest.approx(0.95, abs=0.035)
    assert covered(accuracies(hits), 70) < 0.75


@pytest.mark.parametrize("at_once", [10_000, 300, 1])
def test_the_difference_of_runs_with_the_same_answers_is_exactly_0(at_once, monkeypatch):
    """Of fractions too, which a product of matrices adds in an order that depends on its size."""
    monkeypatch.setattr(bootstrap, "CELLS", 300 * at_once)
    hits = np.random.default_rng(3).choice([0, 0.3, 0.6, 0.9, 1], size=300)
    draws = draw_figures(accuracies(np.stack([hits, hits, 1 - hits, hits, hits])))
    for other in (1, 3, 4):
        assert interval(draws[0] - draws[other]) == (0, 0)
        assert (draws[0] == draws[other]).all()


def test_a_difference_is_that_of_answers_to_the_same_questions():
    """The second run is right wherever the first is and in 12 of 600 questions more: a difference of 2 for certain."""
    first = np.arange(600) < 300
    draws = draw_figures(accuracies(np.stack([first, np.arange(600) < 312])))
    low, high = interval(draws[1] - draws[0])
    spread = 100 * (0.02 * 0.98 / 600) ** 0.5
    assert low > 0
    assert (low, high) == pytest.approx((2 - 1.96 * spread, 2 + 1.96 * spread), abs=0.25)
    apart = [interval(row) for row in draws]
    assert apart[0][1] > apart[1][0]


def test_a_run_s_interval_does_not_depend_on_what_it_is_compared_with(monkeypatch):
    monkeypatch.setattr(bootstrap, "CELLS", 300 * 300)
    runs = accuracies(np.random.default_rng(4).choice([0, 0.3, 0.6, 0.9, 1], size=(5, 300)))
    together = draw_figures(runs)
    assert all((draw_figures([run])[0] == row).all() for run, row in zip(runs, together))


def assert_distribution(draws: np.ndarray, outcomes: list[float]) -> None:
    """That the draws have the distribution of outcomes that are equally likely."""
    expected = Counter(round(value, 6) for value in outcomes)
    found = Counter(np.round(draws, 6).tolist())
    assert found.keys() == expected.keys()
    for value, count in expected.items():
        share = count / len(outcomes)
        assert found[value] / DRAWS == pytest.approx(share, abs=5 * (share * (1 - share) / DRAWS) ** 0.5)


def test_pope_s_f1_is_that_of_the_drawn_pictures_in_all_categories():
    """Of three pictures there are 27 equally likely draws; the scorer says what each is worth."""
    # By category, each picture's answers as (said, truth): how many a picture has is not the same.
    answers = {
        "popular": [[(True, True), (False, False)], [(True, False), (True, True)], [(False, True)]],
        "random": [[(True, True), (True, False)], [(False, False)], [(True, True), (False, True)]],
    }
    terms = {
        category: [
            (f"{picture} {i}", str(picture), 2 * (said and truth), 2 if said and truth else int(said != truth))
            for picture, pairs in enumerate(of_pictures)
            for i, (said, truth) in enumerate(pairs)
        ]
        for category, of_pictures in answers.items()
    }

    def mean_f1(drawn: tuple[int, ...]) -> float:
        pairs = [[pair for picture in drawn for pair in of_pictures[picture]] for of_pictures in answers.values()]
        return sum(eval_pope.score(*zip(*of_category))["f1"] for of_category in pairs) / 2

    items = make_items(terms)
    assert items.figure == mean_f1((0, 1, 2))
    (draws,) = draw_figures([items])
    assert_distribution(draws, [mean_f1(drawn) for drawn in itertools.product(range(3), repeat=3)])


def test_mme_s_points_are_those_of_pictures_drawn_in_each_category():
    """Two categories of two and three pictures, two questions each: a picture gives accuracy and accuracy plus."""
    hits = {"count": [(1, 0), (1, 1)], "color": [(0, 0), (1, 0), (1, 1)]}
    terms = {}
    for category, of_pictures in hits.items():
        names = [f"{category}/{i}" for i in range(len(of_pictures))]
        terms[f"{category} accuracy"] = [
            (f"{name}/{i}", name, hit, 1) for name, pair in zip(names, of_pictures) for i, hit in enumerate(pair)
        ]
        terms[f"{category} accuracy_plus"] = [(name, name, all(pair), 1) for name, pair in zip(names, of_pictures)]

    def points(drawn: tuple[tuple[int, int], ...]) -> float:
        plain = [hit for pair in drawn for hit in pair]
        return 100 * sum(plain) / len(plain) + 100 * sum(map(all, drawn)) / len(drawn)

    by_category = [
        [points(drawn) for drawn in itertools.product(of_pictures, repeat=len(of_pictures))]
        for of_pictures in hits.values()
    ]
    items = make_items(terms, "sum")
    assert items.figure == pytest.approx(sum(points(tuple(of_pictures)) for of_pictures in hits.values()))
    (draws,) = draw_figures([items])
    assert_distribution(draws, [one + other for one, other in itertools.product(*by_category)])


def test_runs_that_answered_different_questions_are_refused():
    one, other = accuracy_items([1, 2], [1, 2], [1, 0]), accuracy_items([1, 3], [1, 3], [1, 0])
    with pytest.raises(InputError, match="did not answer the same questions"):
        draw_figures([one, other])


def test_one_picture_leaves_nothing_to_draw():
    with pytest.raises(InputError, match="one picture"):
        draw_figures([accuracy_items([1, 2], ["a", "a"], [1, 0])])

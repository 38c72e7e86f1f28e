"""Who answers what: image by image, everything once, in parts of similar size."""

from pathlib import Path

import pytest

from llava.eval.benchmarks.questions import Question, by_image
from llava.eval.run.ranks import share


def asked(images: str) -> list[Question]:
    """A question on each of the images, by letter; a dash is a question without one."""
    return [Question(i, f"Q{i}", None if x == "-" else Path(x), "") for i, x in enumerate(images)]


def test_questions_on_one_image_come_together():
    questions = asked("ab-acb-")
    assert by_image(questions, [0, 1, 2, 3, 4, 5, 6]) == [2, 6, 0, 3, 1, 5, 4]
    assert by_image(questions, []) == []


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("images", ["a" * 9, "-" * 9, "aabbccddeeff", "abcdefghij--", "aaaaaaab", ""])
def test_every_question_goes_to_one_process_and_images_stay_whole(images, count):
    questions = asked(images)
    order = by_image(questions, list(range(len(questions))))
    parts = [share(questions, order, rank, count) for rank in range(count)]
    assert [number for part in parts for number in part] == order
    owners = [{questions[number].image for number in part} - {None} for part in parts]
    assert len(set().union(*owners)) == sum(map(len, owners))


def test_parts_are_of_similar_size():
    questions = asked("".join(x * 18 for x in "abcdefghijklmnop") + "-" * 12)
    order = by_image(questions, list(range(300)))
    sizes = [len(share(questions, order, rank, 4)) for rank in range(4)]
    assert sum(sizes) == 300
    assert max(sizes) - min(sizes) <= 18

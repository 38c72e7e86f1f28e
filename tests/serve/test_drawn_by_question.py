"""Methods that choose by the question: what is drawn is what the language model has read for the answer."""

import pytest
import torch

from llava.pruning import Settings
from tests.serve.conftest import ask
from tests.serve.test_drawing import Drawing


@pytest.fixture
def passes_of():
    """passes_of(model) -> a list that gets (L, D) input and output of each of the decoder's layers, pass after pass."""
    hooks = []

    def begin(model) -> list[tuple[torch.Tensor, torch.Tensor]]:
        passes = []
        for layer in model.model.layers:
            hooks.append(layer.register_forward_hook(lambda _, inputs, out: passes.append((inputs[0][0], out[0]))))
        return passes

    yield begin
    for hook in hooks:
        hook.remove()


def same_rows(rows: torch.Tensor, among: torch.Tensor) -> list[int]:
    """Which of `among` (m, D) are one of `rows` (n, D)."""
    return [i for i, row in enumerate(among) if bool((rows == row).all(dim=1).any())]


def drawn(html: str) -> set[int]:
    """The numbers of the patches that are drawn as kept, crop after crop."""
    return {144 * i + 12 * y + x for i, squares in enumerate(Drawing(html).squares("other")) for x, y in squares}


@pytest.mark.parametrize(
    ("method", "version"),
    [("dart_embeds", "v1.5"), ("fastv", "v1.5"), ("dart", "v1.5"), ("fastv", "v1.6"), ("dart", "v1.6")],
)
def test_what_is_drawn_after_the_answer_is_what_was_read(service_of, picture_file, passes_of, version, method):
    service, pruning = service_of(version), Settings(16, pruning_method=method)
    service.take_picture("me", picture_file, "picture.png")
    assert "nothing-drawn" in service.draw_kept("me", pruning)
    passes = passes_of(service.model.model)
    assert ask(service, "me", "What is it?", pruning).pruned.is_done
    with torch.inference_mode():
        every = service.visitors.get("me").encoded.views.projected.flatten(0, 1)
    read = passes[0][0]
    expected = same_rows(read, every)
    if method != "dart_embeds":  # the third layer has those of the second one's tokens that FastV and DART left
        place_of = {same_rows(every[patch : patch + 1], read)[0]: patch for patch in expected}
        left = same_rows(passes[2][0], passes[1][1])
        expected = [place_of[place] for place in left if place in place_of]
    assert 10 < len(expected) < len(every) / 5
    assert drawn(service.draw_kept("me", pruning)) == set(expected)
    other = service.draw_kept("me", Settings(17, pruning_method=method))
    assert ("nothing-drawn" in other) is (method != "dart_embeds")  # inside the decoder nobody has chosen 17
    service.visitors.get("me").start_over()
    assert "nothing-drawn" in service.draw_kept("me", pruning)

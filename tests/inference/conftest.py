"""What the tests of the engine and of sessions share."""

import pytest


@pytest.fixture
def watch():
    """watch(module, measure) -> a list that gets the measure of the first input of each pass through a module."""
    hooks = []

    def begin(module, measure) -> list[int]:
        numbers: list[int] = []
        hooks.append(module.register_forward_hook(lambda _, inputs, out: numbers.append(measure(inputs[0]))))
        return numbers

    yield begin
    for hook in hooks:
        hook.remove()


@pytest.fixture
def decoded(watch):
    """decoded(model) -> a list that gets the number of tokens of each pass through the decoder, over all prompts."""
    return lambda model: watch(model.model.layers[0], lambda states: states.shape[:2].numel())


@pytest.fixture
def encoded(watch):
    """encoded(model) -> a list that gets the number of crops of each pass through the vision tower."""
    return lambda model: watch(model.get_vision_tower().vision_tower.embeddings, len)

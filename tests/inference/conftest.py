"""What the tests of the engine and of sessions share."""

import pytest


@pytest.fixture
def decoded():
    """decoded(model) -> a list that gets the number of tokens of each pass through the decoder, over all prompts."""
    hooks = []

    def watch(model) -> list[int]:
        numbers: list[int] = []
        layer = model.model.layers[0]
        hooks.append(layer.register_forward_hook(lambda _, inputs, out: numbers.append(inputs[0].shape[:2].numel())))
        return numbers

    yield watch
    for hook in hooks:
        hook.remove()


@pytest.fixture
def encoded():
    """encoded(model) -> a list that gets the number of crops of each pass through the vision tower."""
    hooks = []

    def watch(model) -> list[int]:
        numbers: list[int] = []
        embeddings = model.get_vision_tower().vision_tower.embeddings
        hooks.append(embeddings.register_forward_hook(lambda _, inputs, out: numbers.append(len(inputs[0]))))
        return numbers

    yield watch
    for hook in hooks:
        hook.remove()

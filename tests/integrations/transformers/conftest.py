"""Pruned models that several files test."""

import pytest
from kinds import BY_NAME, KINDS

from llava.integrations.transformers import prune


@pytest.fixture(params=KINDS, ids=lambda case: case.name)
def pruned(request):
    """A case and its model, pruned to 3 tokens."""
    return request.param, prune(request.param.model(), 3)


@pytest.fixture
def llava():
    """The case of LLaVA and its model, pruned to 3 tokens."""
    return BY_NAME["llava"], prune(BY_NAME["llava"].model(), 3)

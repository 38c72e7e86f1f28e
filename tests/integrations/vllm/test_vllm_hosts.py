"""vLLM's own models with pruned pictures answer as `prune` on transformers' does: `VLLM_PROMPTS=200` asks more."""

import os
import random

import pytest

from llava.pruning import METHOD_NAMES
from llava.integrations.vllm.settings import Tower, read_budget
from llava.errors import InputError
from tests.integrations.vllm.conftest import NO_VLLM

pytest.importorskip("vllm.version", reason=NO_VLLM)

from tests.integrations.vllm.random_hosts import HOSTS, NEW, Truth, make, requests

PROMPTS = int(os.environ.get("VLLM_PROMPTS", 16))


@pytest.fixture(scope="session")
def host_folder(tmp_path_factory):
    """The folder of a random checkpoint, by its name in HOSTS; each is made once."""
    made = {}

    def get(name: str):
        if name not in made:
            made[name] = make(HOSTS[name], tmp_path_factory.mktemp("host") / "random")
        return made[name]

    return get

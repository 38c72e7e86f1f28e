"""Hosts of three kinds, for what must hold in every kind of call."""

import torch
import transformers
from host_cases import CASES, IMAGE

CACHE = "past_key_values" if transformers.__version__ < "5.24" else "cache"  # the argument's name
GREEDY = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [IMAGE]}
BY_NAME = {case.name: case for case in CASES}
KINDS = [BY_NAME[name] for name in ("llava", "qwen2_5_vl", "gemma3")]


def answer(model, inputs: dict, **options) -> torch.Tensor:
    return model.generate(**inputs, **{**GREEDY, **options})[:, inputs["input_ids"].shape[1] :]

"""Qwen3.5: as Qwen2-VL, on a language model most of whose layers keep a state in place of keys and values."""

from llava.integrations.transformers.hosts.qwen2_vl import Qwen2VLHost


class Qwen3_5Host(Qwen2VLHost):
    models = ("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration")
    written = r"<\d+(?:\.\d+)? seconds>"  # before each time step of a video


HOST = Qwen3_5Host()

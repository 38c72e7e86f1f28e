"""vLLM's part of `side_by_side`, in an environment that has it: python -m scripts.benchmarks.vllm_way SPEC ANSWERS

SPEC is JSON of what is asked. A line `ready` on stdout says that the first question is answered; ANSWERS gets the rate
in questions per second, the memory in bytes, and the texts.
"""

import json
import os
import sys
import time
from pathlib import Path

# vLLM's engine in this process, so that its memory is this one's, and 1 GiB of KV cache on a CPU.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch
from PIL import Image
from vllm import LLM, SamplingParams

from llava.bench.measure import PeakMemory
from llava.files import write_json


def main(spec: Path, answers: Path) -> None:
    given = json.loads(spec.read_text(encoding="utf-8"))
    is_half = given["options"]["dtype"] == "float16"
    with PeakMemory(torch.device("cuda" if is_half else "cpu")) as memory:
        llm = LLM(**given["options"], block_size=32, max_model_len=2048)
        sampling = SamplingParams(temperature=0, max_tokens=given["max_tokens"])

        def answer(asked: list) -> list[str]:
            pictures = {name: Image.open(name).convert("RGB") for _, name in asked}
            own = {"mm_processor_kwargs": given["settings"]}
            prompts = [own | {"prompt": text, "multi_modal_data": {"image": pictures[name]}} for text, name in asked]
            return [output.outputs[0].text.strip() for output in llm.generate(prompts, sampling, use_tqdm=False)]

        answer(given["asked"][:1])
        print("ready", flush=True)
        start = time.perf_counter()
        texts = answer(given["asked"])
        seconds = time.perf_counter() - start
    write_json(answers, {"rate": len(texts) / seconds, "memory": memory.bytes, "texts": texts})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

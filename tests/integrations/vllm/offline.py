"""Ask vLLM's `LLM` in a process of its own: `python -m tests.integrations.vllm.offline SPEC ANSWERS`, both JSON."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # vLLM's engine in this process: it starts much sooner

from PIL import Image
from vllm import LLM, SamplingParams


def main(spec: Path, answers: Path) -> None:
    asked = json.loads(spec.read_text())
    llm = LLM(asked["model"], **asked["options"])
    sampling = SamplingParams(temperature=0, max_tokens=asked["max_tokens"])
    completions = []
    for requests in asked["rounds"]:
        prompts = []
        for request in requests:
            images = [Image.open(image).convert("RGB") for image in request["images"]]
            prompt = {"prompt": request["prompt"], "mm_processor_kwargs": request.get("settings", {})}
            prompts.append(prompt | ({"multi_modal_data": {"image": images}} if images else {}))
        completions.append(
            [
                {
                    "text": output.outputs[0].text.strip(),
                    "ids": list(output.outputs[0].token_ids),
                    "prompt_tokens": len(output.prompt_token_ids),
                    "cached_tokens": output.num_cached_tokens,
                }
                for output in llm.generate(prompts, sampling, use_tqdm=False)
            ]
        )
    answers.write_text(json.dumps(completions))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

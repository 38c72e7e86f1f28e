"""vLLM's `LLM` in a process of its own, which `conftest.engine` starts and asks."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # vLLM's engine in this process: it starts much sooner

import numpy as np
from PIL import Image
from vllm import LLM, SamplingParams


def metadata(frames: np.ndarray) -> dict:
    """What is said of a video of these frames, (number, height, width, 3): two a second, none left out."""
    number = len(frames)
    said = {"fps": 2.0, "duration": number / 2, "total_num_frames": number, "frames_indices": list(range(number))}
    return said | {"video_backend": "none", "do_sample_frames": False}


def main(spec: Path) -> None:
    """An engine, and the answers to what the files say whose names come by standard input, a line each."""
    asked = json.loads(spec.read_text())
    llm = LLM(asked["model"], **asked["options"])
    for line in sys.stdin:
        file = Path(line.strip())
        answers = answer(llm, **json.loads(file.read_text()))
        (part := file.with_suffix(".part")).write_text(json.dumps(answers))
        part.rename(file.with_suffix(".answers"))


def answer(llm: LLM, rounds: list[list[dict]], max_tokens: int) -> list[list[dict]]:
    """What is said to each request of each round, a round at a time."""
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens)
    completions = []
    for requests in rounds:
        prompts = []
        for request in requests:
            images = [Image.open(image).convert("RGB") for image in request["images"]]
            videos = [(frames := np.load(video), metadata(frames)) for video in request.get("videos", [])]
            prompt = {"prompt": request["prompt"], "mm_processor_kwargs": request.get("settings", {})}
            shown = {name: own for name, own in (("image", images), ("video", videos)) if own}
            prompts.append(prompt | ({"multi_modal_data": shown} if shown else {}))
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
    return completions


if __name__ == "__main__":
    main(Path(sys.argv[1]))

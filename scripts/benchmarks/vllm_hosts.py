"""What a share does to vLLM: requests a second and KV blocks, on Qwen2.5-VL of middle size with random weights.

python -m scripts.benchmarks.vllm_hosts --pictures 16 --rounds 3      (in .venv-vllm, see scripts/test_vllm.sh)

4 layers of width 1024 and pictures of 1,000 tokens in float32, a question and 16 tokens of answer each. The shares take
turns, so that what else the machine does meets them alike. All caches are off: every picture is encoded each time.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from llava.cli import CommandParser, output_file, run_command
from llava.files import write_json

SHARES = (1.0, 0.5, 0.25, 0.1)
HEIGHT, WIDTH = 700, 1120  # 25 x 40 tokens
NEW, BLOCK, CONTEXT = 16, 32, 2048


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=16, help="requests of a round (16)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is said (3)")
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    args = parser.parse_args()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # so that its CPU time is this process's
    rows = measure(args.pictures, args.rounds)
    print("share  prompt tokens  requests/s  requests/s of CPU  KV blocks a request  requests at once")
    for row in rows:
        print("{share:5}  {prompt_tokens:13}  {per_second:10.2f}  {per_cpu_second:17.2f}".format(**row), end="")
        print("  {blocks:19}  {at_once:16}".format(**row))
    if args.out:
        write_json(args.out, rows)


def measure(pictures: int, rounds: int) -> list[dict]:
    """A row for each share."""
    from vllm import LLM, SamplingParams

    from tests.conftest import picture
    from tests.integrations.vllm.random_hosts import IMAGE_TEXT, make

    images = [picture(WIDTH, HEIGHT, seed=seed) for seed in range(pictures)]
    sampling = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    with tempfile.TemporaryDirectory() as folder:
        host = _host()
        llm = LLM(
            str(make(host, Path(folder) / "random")),
            hf_overrides={"architectures": [host.architecture]},
            dtype="float32",
            block_size=BLOCK,
            max_model_len=CONTEXT,
            enforce_eager=True,
            limit_mm_per_prompt={"image": 1, "video": 0},
            enable_prefix_caching=False,
            mm_processor_cache_gb=0,
        )
    blocks = llm.llm_engine.vllm_config.cache_config.num_gpu_blocks
    times: dict[float, list[tuple[float, float]]] = {share: [] for share in SHARES}
    tokens = {}
    for i in range(rounds + 1):
        for share in SHARES:
            own = {"visual_token_num": share}
            prompts = [
                {"prompt": f"{IMAGE_TEXT}what?", "multi_modal_data": {"image": image}, "mm_processor_kwargs": own}
                for image in images
            ]
            start, cpu = time.perf_counter(), time.process_time()
            outputs = llm.generate(prompts, sampling, use_tqdm=False)
            if i:  # the first round warms up
                times[share].append((time.perf_counter() - start, time.process_time() - cpu))
            tokens[share] = len(outputs[0].prompt_token_ids)
    return [_row(share, tokens[share], times[share], pictures, blocks) for share in SHARES]


def _row(share: float, tokens: int, times: list[tuple[float, float]], pictures: int, blocks: int) -> dict:
    wall, cpu = (pictures / statistics.median(column) for column in zip(*times))
    own = -(-(tokens + NEW) // BLOCK)
    return {
        "share": share,
        "prompt_tokens": tokens,
        "per_second": wall,
        "per_cpu_second": cpu,
        "blocks": own,
        "at_once": blocks // own,
    }


def _host():
    """Qwen2.5-VL of middle size."""
    import transformers

    from tests.integrations.vllm.random_hosts import QWEN_TOKENS, ROPE, TEXT, RandomHost

    vision = {"depth": 4, "hidden_size": 512, "intermediate_size": 1024, "num_heads": 8, "out_hidden_size": 1024,
              "window_size": 112, "fullatt_block_indexes": [3], "patch_size": 14}  # fmt: skip
    text = {**TEXT, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "head_dim": 64,
            "num_attention_heads": 16, "num_key_value_heads": 4,
            "rope_parameters": {**ROPE, "mrope_section": [8, 12, 12]}}  # fmt: skip
    return RandomHost(
        "Qwen2_5_VLForConditionalGeneration",
        lambda: transformers.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **QWEN_TOKENS),
        "Qwen2_5_VL",
        {"min_pixels": 56 * 56, "max_pixels": HEIGHT * WIDTH},
        spread=0.02,  # as published models begin: wider ones make attention of numbers too small for a CPU's fast path
    )


if __name__ == "__main__":
    run_command(main)

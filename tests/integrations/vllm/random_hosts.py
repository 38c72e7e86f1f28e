"""Tiny random checkpoints of vLLM's own models, and `prune`'s answers to the same questions."""

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from llava.integrations.transformers import pruned
from tests.conftest import picture
from tests.integrations.vllm.offline import metadata

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip
END, _, TURN, OPEN, CLOSE, IMAGE, VIDEO = range(len(SPECIAL))
NAMES = {"start_image_token": SPECIAL[OPEN], "end_image_token": SPECIAL[CLOSE],
         "context_image_token": SPECIAL[IMAGE], "video_token": SPECIAL[VIDEO]}  # fmt: skip
QWEN_TOKENS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": OPEN,
               "vision_end_token_id": CLOSE}  # fmt: skip
LETTERS = [chr(code) for code in range(32, 127)]
TEXT = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32,
        "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": None, "eos_token_id": END,
        "tie_word_embeddings": False, "max_position_embeddings": 4096}  # fmt: skip
QWEN2 = {name: value for name, value in TEXT.items() if name != "head_dim"} | {"model_type": "qwen2"}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
TILE = 16  # tokens of an InternVL's, or of a crop of those with a grid
GRID = [[56, 112], [112, 56], [112, 112], [56, 168], [168, 112]]
TILES = {"size": {"height": 112, "width": 112}, "crop_to_patches": True, "max_patches": 4}
SIDES = {"min_pixels": 56 * 56, "max_pixels": 40 * 28 * 28}
NEW = 12
IMAGE_TEXT = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO_TEXT = "<|vision_start|><|video_pad|><|vision_end|>"


def _qwen2_vl():
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 2, "patch_size": 14}
    return transformers.Qwen2VLConfig(
        vision_config=vision, text_config={**TEXT, "rope_parameters": ROPE}, **QWEN_TOKENS
    )


def _qwen2_5_vl(full_layers: list[int]):
    # one position a second: of a video whose time reaches further than its rows vLLM and transformers differ
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": 64,
              "window_size": 56, "fullatt_block_indexes": full_layers, "patch_size": 14,
              "tokens_per_second": 1}  # fmt: skip
    return transformers.Qwen2_5_VLConfig(
        vision_config=vision, text_config={**TEXT, "rope_parameters": ROPE}, **QWEN_TOKENS
    )


def _qwen3_vl():
    vision = {"depth": 3, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": 64,
              "patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}  # fmt: skip
    text = {**TEXT, "rope_parameters": {**ROPE, "mrope_interleaved": True}}
    return transformers.Qwen3VLConfig(vision_config=vision, text_config=text, **QWEN_TOKENS)


EXPERTS = {"moe_intermediate_size": 96, "num_experts": 4, "num_experts_per_tok": 2}


def _qwen3_vl_moe():
    vision = _qwen3_vl().vision_config.to_dict()
    text = {**TEXT, "rope_parameters": {**ROPE, "mrope_interleaved": True}, **EXPERTS,
            "norm_topk_prob": True}  # fmt: skip
    return transformers.Qwen3VLMoeConfig(vision_config=vision, text_config=text, **QWEN_TOKENS)


def _qwen3_5(name: str = "Qwen3_5Config", **more):
    vision = _qwen3_vl().vision_config.to_dict()
    del vision["deepstack_visual_indexes"], vision["model_type"]
    rope = {**ROPE, "mrope_interleaved": True, "partial_rotary_factor": 0.5, "mrope_section": [2, 3, 3]}
    linear = {"linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_num_key_heads": 2,
              "linear_num_value_heads": 2, "layer_types": ["full_attention"] * 2}  # fmt: skip
    text = {**TEXT, **linear, "rope_parameters": rope, **more}
    return getattr(transformers, name)(vision_config=vision, text_config=text, **QWEN_TOKENS)


def _qwen3_5_moe():
    return _qwen3_5("Qwen3_5MoeConfig", shared_expert_intermediate_size=96, **EXPERTS)


def _internvl():
    vision = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": [112, 112], "patch_size": [14, 14], "use_qk_norm": True}  # fmt: skip
    return transformers.InternVLConfig(
        vision_config=vision, text_config=QWEN2, image_token_id=IMAGE, image_seq_length=TILE, tie_word_embeddings=False
    )


def _unpadded(name: str, vision: dict, text: dict, **more):
    given = {"image_token_index": IMAGE, "image_grid_pinpoints": GRID, "image_seq_length": TILE, **more}
    vision |= {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    return getattr(transformers, f"{name}Config")(vision_config=vision, text_config=text, **given)


def _llava_next():
    vision = {"model_type": "clip_vision_model", "num_hidden_layers": 3, "projection_dim": 64}
    return _unpadded("LlavaNext", vision, {**TEXT, "model_type": "llama"}, vision_feature_layer=-2)


def _llava_onevision():
    vision = {"model_type": "siglip_vision_model", "num_hidden_layers": 2, "vision_use_head": False}
    return _unpadded("LlavaOnevision", vision, QWEN2, video_token_index=VIDEO)


@dataclass(frozen=True)
class RandomHost:
    """A model to test: its class, its config, its processor's class, the pixels that a picture may have."""

    name: str
    config: Callable
    processor: str
    pixels: dict = field(default_factory=lambda: SIDES)
    sizes: list | None = None  # of the pictures that it is asked about, (height, width); None for any
    spread: float = 0.25  # of the weights: so wide that no selection hangs on the last bits

    @property
    def has_videos(self) -> bool:
        return self.processor != "LlavaNext"

    @property
    def architecture(self) -> str:
        return f"VisPruner{self.name}"


HOSTS = {
    "qwen2_vl": RandomHost("Qwen2VLForConditionalGeneration", _qwen2_vl, "Qwen2VL"),
    "qwen2_5_vl": RandomHost("Qwen2_5_VLForConditionalGeneration", lambda: _qwen2_5_vl([1]), "Qwen2_5_VL"),
    "qwen2_5_vl windows": RandomHost("Qwen2_5_VLForConditionalGeneration", lambda: _qwen2_5_vl([0]), "Qwen2_5_VL"),
    "qwen3_vl": RandomHost("Qwen3VLForConditionalGeneration", _qwen3_vl, "Qwen3VL"),
    "qwen3_vl_moe": RandomHost("Qwen3VLMoeForConditionalGeneration", _qwen3_vl_moe, "Qwen3VL"),
    "qwen3_5": RandomHost("Qwen3_5ForConditionalGeneration", _qwen3_5, "Qwen3VL"),
    "qwen3_5_moe": RandomHost("Qwen3_5MoeForConditionalGeneration", _qwen3_5_moe, "Qwen3VL"),
    "internvl": RandomHost("InternVLForConditionalGeneration", _internvl, "InternVL", TILES),
    "llava_next": RandomHost("LlavaNextForConditionalGeneration", _llava_next, "LlavaNext", sizes=GRID),
    "llava_onevision": RandomHost(
        "LlavaOnevisionForConditionalGeneration", _llava_onevision, "LlavaOnevision", sizes=GRID
    ),
}


def make(host: RandomHost, folder: Path) -> Path:
    """Write the checkpoint, as transformers does."""
    torch.manual_seed(0)
    model = getattr(transformers, host.name)(host.config())
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data.normal_(std=host.spread)
    model.generation_config = transformers.GenerationConfig(eos_token_id=END)
    model.save_pretrained(folder)
    if host.name == "Qwen3VLMoeForConditionalGeneration":  # which the published files have the other way round
        weights = load_file(file := folder / "model.safetensors")
        turned = {name: value.mT.contiguous() if ".experts." in name else value for name, value in weights.items()}
        save_file(turned, file, {"format": "pt"})
    processor(host).save_pretrained(folder)
    return folder


def processor(host: RandomHost):
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate((*SPECIAL, *LETTERS))}, unk_token=SPECIAL[0])
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    words.decoder = tokenizers.decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=SPECIAL[END],
        pad_token=SPECIAL[END],
        additional_special_tokens=list(SPECIAL),
        model_specific_special_tokens=NAMES if host.processor == "InternVL" else {},
        chat_template=CHAT_TEMPLATE,
    )
    if host.processor == "InternVL":
        images = transformers.GotOcr2ImageProcessor(**host.pixels)
        videos = transformers.InternVLVideoProcessor(size=host.pixels["size"])
        return transformers.InternVLProcessor(images, tokenizer, videos, TILE, chat_template=CHAT_TEMPLATE)
    if host.sizes:
        fitted = {"size": {"height": 56, "width": 56}, "image_grid_pinpoints": GRID}
        given = {"chat_template": CHAT_TEMPLATE, "image_token": SPECIAL[IMAGE]}
        if host.processor == "LlavaNext":
            given |= {"num_additional_image_tokens": 1}  # [CLS]
            images = transformers.LlavaNextImageProcessor(**fitted, crop_size=fitted["size"])
            return transformers.LlavaNextProcessor(images, tokenizer, 14, "default", **given)
        images = transformers.LlavaOnevisionImageProcessor(**fitted)
        videos = transformers.LlavaOnevisionVideoProcessor(size=fitted["size"])
        given |= {"num_image_tokens": TILE, "vision_feature_select_strategy": "full", "video_token": SPECIAL[VIDEO]}
        return transformers.LlavaOnevisionProcessor(images, tokenizer, videos, **given)
    more = {
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    images = transformers.Qwen2VLImageProcessor(**host.pixels, **more)
    video = transformers.Qwen3VLVideoProcessor if host.processor == "Qwen3VL" else transformers.Qwen2VLVideoProcessor
    videos = video(**host.pixels, **more)
    return getattr(transformers, f"{host.processor}Processor")(images, tokenizer, videos, chat_template=CHAT_TEMPLATE)


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def requests(folder: Path, number: int, seed: int = 0, sizes: list | None = None) -> list[dict]:
    """Questions about pictures of random sizes, as `offline` takes them, mostly about one, some about two or none.

    `sizes` are (height, width) that they may have, once, twice or three times, where they fill the crops then too.
    """
    folder.mkdir(exist_ok=True)
    draw, made = random.Random(seed), []
    for i in range(number):
        count = {3: 2, 5: 3, 6: 0}.get(i % 16, 1)
        files = [str(folder / f"{seed}_{i}_{j}.png") for j in range(count)]
        for j, file in enumerate(files):
            width, height = draw.randrange(40, 420), draw.randrange(40, 420)
            if sizes:
                height, width = draw.choice(_filling(sizes))
            picture(width, height, seed=1000 * seed + 8 * i + j).save(file)
        words = "".join(draw.choices("abcdefgh ", k=draw.randrange(3, 20)))
        made.append({"prompt": f"Look: {IMAGE_TEXT * count}{words}?", "images": files})
    return made


def _filling(sizes: list) -> list[tuple[int, int]]:
    """Once, twice and three times each size, but for those that another grid would take with padding."""
    larger = [(times * height, times * width) for times in (1, 2, 3) for height, width in sizes]
    grids = [select_best_resolution(size, sizes) for size in larger]
    return [size for size, grid in zip(larger, grids, strict=True) if size[0] * grid[1] == size[1] * grid[0]]


def video_requests(folder: Path, number: int, sizes: list | None = None) -> list[dict]:
    """Questions about a video of some frames and a picture."""
    draw, made = np.random.default_rng(0), requests(folder, number, 1, sizes)
    for i, request in enumerate(made):
        frames, height, width = draw.integers((3, 60, 60), (8, 200, 200))
        np.save(file := folder / f"{i}.npy", draw.integers(0, 255, (frames, height, width, 3), dtype=np.uint8))
        request |= {"prompt": f"{VIDEO_TEXT} {request['prompt']}", "videos": [str(file)]}
    return made


class Truth:
    """transformers' model with `prune`."""

    def __init__(self, host: RandomHost, folder: Path) -> None:
        self.model = getattr(transformers, host.name).from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = transformers.AutoProcessor.from_pretrained(folder)

    def answers(self, asked: list[dict], **settings) -> list[list[int]]:
        """The greedy answers, each alone, to requests of `offline`; a request's own settings go before these."""
        return [self._answer(request, settings | request.get("settings", {})) for request in asked]

    def _answer(self, request: dict, settings: dict) -> list[int]:
        inputs = self.inputs(request)
        with nullcontext() if settings["visual_token_num"] is None else pruned(self.model, **settings):
            output = self.model.generate(**inputs, do_sample=False, max_new_tokens=NEW)
        ids = output[0, inputs["input_ids"].shape[1] :].tolist()
        return ids[: ids.index(END) + 1] if END in ids else ids

    def inputs(self, request: dict):
        """What the processor makes of a request."""
        images = [Image.open(file).convert("RGB") for file in request["images"]]
        videos = [np.load(file) for file in request.get("videos", [])]
        said = [{name: value for name, value in metadata(v).items() if name != "do_sample_frames"} for v in videos]
        shown = {"videos": videos, "video_metadata": said, "do_sample_frames": False} if videos else {}
        return self.processor(text=[request["prompt"]], images=images or None, return_tensors="pt", **shown)

    def prompt_tokens(self, request: dict, share: float) -> int:
        """How long a prompt about pictures is of which a share is kept: counted from their grids, or tiles."""
        inputs = self.inputs(request)
        if "image_grid_thw" in inputs:
            each = (inputs["image_grid_thw"].prod(dim=1) // 4).tolist()
        elif "image_sizes" in inputs:
            each = [TILE] * sum(image_size_to_num_patches(size, GRID, 56) for size in inputs["image_sizes"])
        else:
            each = [TILE] * len(inputs.get("pixel_values", ()))
        return inputs["input_ids"].shape[1] - sum(number - max(1, int(share * number + 0.5)) for number in each)

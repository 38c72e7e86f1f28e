"""A tiny random model of each host, made from its config, and prompts for it with pictures of random pixels.

The pixels are made by hand, as the processors would give them: `test_processors` has those that can be built here.
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import more_cases
import pytest
import torch
import transformers
from host_parts import (
    CLIP,
    CLOSE,
    IMAGE,
    INDICES,
    LLAMA,
    MROPE,
    OPEN,
    PAD,
    QWEN2,
    QWEN_TOKENS,
    SIGLIP,
    START,
    TEXT,
    TOKENS,
    VIDEO,
    Sample,
    normal,
)
from transformers import PreTrainedModel

__all__ = [
    "CASES",
    "CLOSE",
    "GRID",
    "IMAGE",
    "OPEN",
    "PAD",
    "START",
    "VIDEO",
    "batch",
    "each_host",
    "kinds_of",
    "normal",
    "prompt",
]


@dataclass(frozen=True)
class Case:
    """A host to test.

    Attributes:
        name: of the case.
        model_class, config: of the model.
        picture: a random generator -> one picture.
        tokens: visual tokens of a crop that a method chooses of.
        crops: of a picture, frames of a video.
        layer: of the tower, whose attention says what is important.
        has_cls: whether that is the attention of [CLS].
        merged: how patches become a token: not, squares in raster order, or 4 that follow one another.
        grid: rows and columns of patches of a crop; None for a square.
        side: of such a square, in patches.
        has_axes: whether positions have three axes.
        kinds: the argument that says which tokens are pictures, if the processor gives it.
        tower, language_model: names of modules.
        reads: what the features are that a method compares, where they are no hidden states: an output of the tower.
        needs: a package that its tower is of.
        is_recurrent: whether it has layers that keep a state instead of keys and values.
    """

    name: str
    model_class: str
    config: Callable[[], transformers.PreTrainedConfig]
    picture: Callable[[torch.Generator], Sample]
    tokens: int
    crops: int = 1
    layer: int = -1
    has_cls: bool = False
    merged: str = "not"
    grid: tuple[int, int] | None = None
    side: int = 2
    has_axes: bool = False
    kinds: str = ""
    tower: str = "model.vision_tower"
    language_model: str = "model.language_model"
    reads: str = ""
    is_recurrent: bool = False
    needs: str = ""

    def model(self) -> PreTrainedModel:
        """The same weights each time."""
        torch.manual_seed(0)
        model = getattr(transformers, self.model_class)(self.config()).eval()
        for parameter in model.parameters():
            parameter.data.normal_(std=0.2)
        return model

    def places(self) -> torch.LongTensor:
        """(crops, tokens): which of a picture's placeholders is each token's."""
        if (
            self.crops > 1 and "image_sizes" in self.picture(torch.Generator()).inputs
        ):  # newlines behind each row of four, of crops 1, 2
            rows = 16 + torch.arange(8).view(8, 1) * 5 + torch.arange(4)
            return torch.cat([torch.arange(16), rows.flatten()]).view(3, 16)
        if self.name == "video_llava":  # [CLS] before each frame
            return torch.arange(3 * 17).view(3, 17)[:, 1:]
        return torch.arange(self.crops * self.tokens).view(self.crops, self.tokens)


GRID = {"image_grid_pinpoints": [[112, 56], [56, 112], [112, 112]]}


def _of_clip(name: str, **more):
    """The config of a host on CLIP and Llama."""
    return getattr(transformers, f"{name}Config")(vision_config=CLIP, text_config=LLAMA, **INDICES, **more)


def _llava_picture(generator):
    return Sample({"pixel_values": normal(generator, 1, 3, 56, 56)}, ([IMAGE] * 16,))


def _vipllava_config():
    is_old = "vision_feature_layer" in vars(transformers.VipLlavaConfig())
    return _of_clip("VipLlava", **{"vision_feature_layer" if is_old else "vision_feature_layers": [-2, 1]})


def _llava_next_picture(generator):
    """A picture of 112 x 56 pixels (height, width): 1 + 2 x 1 crops, 8 rows of 4 patches, no padding."""
    inputs = {"pixel_values": normal(generator, 1, 5, 3, 56, 56), "image_sizes": torch.tensor([[112, 56]])}
    return Sample(inputs, ([IMAGE] * (16 + 8 * 5),))


def _video_of_crops(tokens: int):
    def video(generator):
        return Sample({"pixel_values_videos": normal(generator, 1, 3, 3, 56, 56)}, ([VIDEO] * tokens,))

    return video


def _onevision_config():
    grid = [[56 * h, 56 * w] for h in range(1, 7) for w in range(1, 7)]
    given = {"vision_config": SIGLIP, "text_config": QWEN2, "image_grid_pinpoints": grid}
    return transformers.LlavaOnevisionConfig(**given, **TOKENS, **INDICES)


def _video_llava_image(generator):
    names = inspect.signature(transformers.VideoLlavaForConditionalGeneration.forward).parameters
    name = "pixel_values" if "pixel_values" in names else "pixel_values_images"
    return Sample({name: normal(generator, 1, 3, 56, 56)}, ([IMAGE] * 16,))


def _qwen2_vl_config():
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 14}
    return transformers.Qwen2VLConfig(vision_config=vision, text_config={**TEXT, **MROPE}, **QWEN_TOKENS)


def _qwen2_5_vl_config(full_layers: list[int]):
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
              "window_size": 56, "fullatt_block_indexes": full_layers, "patch_size": 14}  # fmt: skip
    return transformers.Qwen2_5_VLConfig(vision_config=vision, text_config={**TEXT, **MROPE}, **QWEN_TOKENS)


def _qwen3_vl_config():
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
              "patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}  # fmt: skip
    return transformers.Qwen3VLConfig(vision_config=vision, text_config={**TEXT, **MROPE}, **QWEN_TOKENS)


def _internvl_config():
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
              "image_size": [112, 112], "patch_size": [14, 14], "use_qk_norm": True}  # fmt: skip
    return transformers.InternVLConfig(vision_config=vision, text_config=QWEN2, image_token_id=IMAGE)


def _internvl_picture(generator):
    return Sample({"pixel_values": normal(generator, 2, 3, 112, 112)}, ([OPEN, *[IMAGE] * 32, CLOSE],))


def _idefics_config(name: str):
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 112, "patch_size": 14}  # fmt: skip
    more = {"image_token_id": IMAGE, "scale_factor": 2, "pad_token_id": PAD}
    return getattr(transformers, name)(vision_config=vision, text_config=LLAMA, **more)


def _idefics_picture(generator):
    inputs = {
        "pixel_values": normal(generator, 1, 2, 3, 112, 112),
        "pixel_attention_mask": torch.ones(1, 2, 112, 112, dtype=torch.long),
    }
    return Sample(inputs, ([OPEN, *[IMAGE] * 16, CLOSE, OPEN, *[IMAGE] * 16, CLOSE],))


def _gemma3_config():
    vision = {**SIGLIP, "image_size": 112}
    text = {**TEXT, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
    return transformers.Gemma3Config(
        vision_config=vision, text_config=text, mm_tokens_per_image=16, image_token_index=IMAGE, image_token_id=IMAGE
    )


def _gemma3_picture(generator):
    return Sample({"pixel_values": normal(generator, 1, 3, 112, 112)}, ([OPEN, *[IMAGE] * 16, CLOSE],))


QWEN, PATCHES = more_cases.QWEN, more_cases.patches
FRAMES, BOTH = more_cases.frames(VIDEO), more_cases.frames(VIDEO, apart=False)
CLS = {"layer": 1, "has_cls": True}
SQUARES = {"merged": "in squares"}
IDEFICS = {"tower": "model.vision_model", "language_model": "model.text_model", "crops": 2, **SQUARES}
NEXT = functools.partial(_of_clip, "LlavaNext", **GRID)
NEXT_VIDEO = functools.partial(_of_clip, "LlavaNextVideo", **GRID, **TOKENS)
VIDEO_LLAVA = functools.partial(_of_clip, "VideoLlava")
CASES = [
    Case("llava", "LlavaForConditionalGeneration", functools.partial(_of_clip, "Llava"), _llava_picture, 16, **CLS),
    Case("vipllava", "VipLlavaForConditionalGeneration", _vipllava_config, _llava_picture, 16, **CLS),
    Case("llava_next", "LlavaNextForConditionalGeneration", NEXT, _llava_next_picture, 16, 3, **CLS),
    Case("next_video image", "LlavaNextVideoForConditionalGeneration", NEXT_VIDEO, _llava_next_picture, 16, 3, **CLS),
    Case("next_video", "LlavaNextVideoForConditionalGeneration", NEXT_VIDEO, _video_of_crops(12), 4, 3,
         **CLS, **SQUARES),
    Case("onevision image", "LlavaOnevisionForConditionalGeneration", _onevision_config, _llava_next_picture, 16, 3),
    Case("onevision video", "LlavaOnevisionForConditionalGeneration", _onevision_config, _video_of_crops(13), 4, 3,
         **SQUARES),
    Case("video_llava image", "VideoLlavaForConditionalGeneration", VIDEO_LLAVA, _video_llava_image, 16,
         tower="model.image_tower", **CLS),
    Case("video_llava", "VideoLlavaForConditionalGeneration", VIDEO_LLAVA, _video_of_crops(51), 16, 3,
         tower="model.video_tower", **CLS),
    Case("qwen2_vl", "Qwen2VLForConditionalGeneration", _qwen2_vl_config, PATCHES, 12, **QWEN),
    Case("qwen2_vl video", "Qwen2VLForConditionalGeneration", _qwen2_vl_config, BOTH, 12, 2, **QWEN),
    Case("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", functools.partial(_qwen2_5_vl_config, [1]), PATCHES,
         12, **QWEN),
    Case("qwen2_5_vl window", "Qwen2_5_VLForConditionalGeneration", functools.partial(_qwen2_5_vl_config, [0]),
         PATCHES, 12, **QWEN),
    Case("qwen2_5_vl video", "Qwen2_5_VLForConditionalGeneration", functools.partial(_qwen2_5_vl_config, [1]),
         BOTH, 12, 2, **QWEN),
    Case("qwen3_vl", "Qwen3VLForConditionalGeneration", _qwen3_vl_config, PATCHES, 12, **QWEN),
    Case("qwen3_vl video", "Qwen3VLForConditionalGeneration", _qwen3_vl_config, FRAMES, 12, 2, **QWEN),
    Case("internvl", "InternVLForConditionalGeneration", _internvl_config, _internvl_picture, 16, 2, has_cls=True,
         **SQUARES),
    Case("idefics3", "Idefics3ForConditionalGeneration", functools.partial(_idefics_config, "Idefics3Config"),
         _idefics_picture, 16, **IDEFICS),
    Case("smolvlm", "SmolVLMForConditionalGeneration", functools.partial(_idefics_config, "SmolVLMConfig"),
         _idefics_picture, 16, **IDEFICS),
    Case("gemma3", "Gemma3ForConditionalGeneration", _gemma3_config, _gemma3_picture, 16,
         kinds="token_type_ids", **SQUARES),
    *(Case(**fields) for fields in more_cases.FIELDS),
]  # fmt: skip


def _missing(case: Case) -> str:
    """Why a case cannot run here; "" if it can."""
    if case.needs and importlib.util.find_spec(case.needs) is None:
        return f"its tower needs {case.needs}"
    if case.name == "llama4" and transformers.__version__ == "5.24.0":
        return "Llama 4 cannot be called in this release of transformers, pruned or not"
    if case.name == "gemma4 video" and transformers.__version__ == "5.19.0":
        return "Gemma 4 does not hand a video's number of frames on in this release of transformers, unpruned"
    name = "" if hasattr(transformers, case.model_class) else case.model_class
    return f"this release of transformers has no {name}" if name else ""


def _parameter(case: Case):
    skip = pytest.mark.skipif(bool(_missing(case)), reason=_missing(case))
    return pytest.param(case, id=case.name.replace(" ", "-"), marks=skip)


each_host = pytest.mark.parametrize("case", [_parameter(case) for case in CASES])


def prompt(case: Case, seed: int, pictures: int = 1, text: int = 4) -> dict:
    """The inputs of one prompt: some text, its pictures with a word behind each, and `text` more tokens."""
    generator = torch.Generator().manual_seed(seed)
    samples = [case.picture(generator) for _ in range(pictures)]
    words = iter(torch.randint(5, 90, (64,), generator=generator).tolist())
    ids = [START, next(words)]
    for sample in samples:
        for placeholders in sample.pictures:
            ids += [*placeholders, next(words)]
    ids = torch.tensor([ids + [next(words) for _ in range(text)]])
    names = samples[0].inputs if samples else {}
    pictures = {name: torch.cat([sample.inputs[name] for sample in samples]) for name in names}
    if case.model_class.startswith(("Idefics", "SmolVLM")) and names:  # all crops of a prompt in one row
        pictures = {name: value.flatten(0, 1).unsqueeze(0) for name, value in pictures.items()}
    return _with_kinds(case, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pictures})


def batch(case: Case, prompts: list[dict]) -> dict:
    """Several prompts, padded on the left."""
    longest = max(p["input_ids"].shape[1] for p in prompts)

    def pad(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([torch.nn.functional.pad(row, (longest - row.shape[1], 0)) for row in rows])

    ids = pad([p["input_ids"] for p in prompts])
    inputs = {"input_ids": ids, "attention_mask": pad([p["attention_mask"] for p in prompts])}
    names = set().union(*prompts) - {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}
    for name in names:
        parts = [p[name] for p in prompts if name in p]
        if name.startswith("pixel") and parts[0].ndim in (4, 5) and case.model_class.startswith(("Idefics", "SmolVLM")):
            most = max(part.shape[1] for part in parts)
            parts = [torch.cat([part, part.new_zeros(1, most - part.shape[1], *part.shape[2:])], 1) for part in parts]
            missing = len(prompts) - len(parts)
            parts += [torch.zeros_like(parts[0])] * missing  # of prompts without a picture, which come last
        inputs[name] = torch.cat(parts)
    return _with_kinds(case, inputs)


def _with_kinds(case: Case, inputs: dict) -> dict:
    """With what kind of token each is, as the processors of some hosts say it."""
    ids = inputs["input_ids"]
    return {**inputs, case.kinds: kinds_of(case, ids)} if case.kinds else inputs


def kinds_of(case: Case, ids: torch.LongTensor) -> torch.IntTensor:
    """1 for images, 2 for videos. In GLM-4V's the placeholders are the same; PaliGemma's are 0 up to the last one."""
    is_image = (ids == IMAGE).int()
    if case.name == "paligemma prefix":
        return (is_image.flip(1).cumsum(dim=1).flip(1) == 0).int()
    return 2 * is_image if case.name == "glm4v video" else is_image + 2 * (ids == VIDEO).int()

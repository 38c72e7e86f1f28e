"""Pictures that come from transformers' own processors, which go on writing all placeholders.

Processors that take videos cannot be made without torchvision. Of those the image processor is real, and the
placeholders are counted by hand.
"""

from importlib import import_module

import numpy as np
import pytest
import torch
import transformers
from host_cases import CLOSE, GRID, IMAGE, OPEN, PAD, START, batch
from host_parts import tokenizer_with_spaces
from kinds import BY_NAME, GREEDY, answer
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from llava.errors import InputError
from llava.integrations.transformers import count_tokens, downsample, prune
from llava.integrations.transformers.hosts import find_host

SQUARE = {"height": 56, "width": 56}
MANY = [[56 * height, 56 * width] for height in range(1, 7) for width in range(1, 7)]


def picture(seed: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


PICTURES = [picture(1, 120, 90), picture(2, 70, 200), picture(3, 64, 64)]


def tokenizer(image: str, opening: str = "<open>", closing: str = "<close>", **names: str):
    """Words w2 to w127 are tokens 2 to 127, but for the special tokens of the cases."""
    words = {f"w{i}": i for i in range(128) if i not in (PAD, START, IMAGE, OPEN, CLOSE)}
    specials = {"<pad>": PAD, "<s>": START, image: IMAGE, opening: OPEN, closing: CLOSE}
    made = Tokenizer(models.WordLevel({**words, **specials}, unk_token="w4"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", unk_token="w4", padding_side="left",
        extra_special_tokens={**names, "image_token": image},
    )  # fmt: skip
    made.add_tokens(list(specials), special_tokens=True)
    return made


def image_processor(model: str, **options):
    """The image processor over PIL of a model."""
    module = import_module(f"transformers.models.{model}.image_processing_pil_{model}")
    (cls,) = (
        value
        for name, value in vars(module).items()
        if name.endswith("ImageProcessorPil") and value.__module__ == module.__name__
    )
    return cls(**options)


def llava():
    images = image_processor("clip", size={"shortest_edge": 56}, crop_size=SQUARE)
    return transformers.LlavaProcessor(images, tokenizer("<image>"), 14, "default", num_additional_image_tokens=1)


def llava_next():
    images = image_processor("llava_next", size={"shortest_edge": 56}, crop_size=SQUARE, **GRID)
    return transformers.LlavaNextProcessor(images, tokenizer("<image>"), 14, "default", num_additional_image_tokens=1)


def idefics3():
    images = image_processor("idefics3", size={"longest_edge": 224}, max_image_size={"longest_edge": 112})
    names = {"fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"}
    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", **names)
    return transformers.Idefics3Processor(images, words, image_seq_len=16)


def gemma3():
    images = image_processor("gemma3", size={"height": 112, "width": 112})
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer("<image_soft_token>", "<start_of_image>", "<end_of_image>", **names)
    return transformers.Gemma3Processor(images, words, image_seq_length=16)


def paligemma():
    images = image_processor("siglip", size=SQUARE)
    images.image_seq_length = 16
    return transformers.PaliGemmaProcessor(images, tokenizer("<image>"))


def aya_vision():
    images = image_processor("got_ocr2", size={"height": 112, "width": 112}, crop_to_patches=True, max_patches=4)
    words = tokenizer("<|IMG_PATCH|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>")
    return transformers.AyaVisionProcessor(images, words, patch_size=14, img_size=112, downsample_factor=2)


def ovis2():
    images = image_processor("ovis2", size={"height": 112, "width": 112}, max_patches=4)
    words = tokenizer("<IMG_ATOM>", "<IMG_START>", "<IMG_END>")
    words.add_tokens(["<image>"], special_tokens=True)  # which the processor writes out
    return transformers.Ovis2Processor(images, words, image_seq_length=16)


def deepseek_vl():
    images = image_processor("deepseek_vl", size=SQUARE, min_size=14)
    return transformers.DeepseekVLProcessor(images, tokenizer("<image>"), num_image_tokens=16)


PROCESSORS = [
    ("llava", llava, "<image>", 16),
    ("vipllava", llava, "<image>", 16),
    ("llava_next", llava_next, "<image>", 16),
    ("idefics3", idefics3, "<image>", 16),
    ("gemma3", gemma3, "<start_of_image>", 16),
    ("paligemma", paligemma, "<image>", 16),
    ("aya_vision", aya_vision, "<image>", 16),
    ("ovis2", ovis2, "<image>", 16),
    ("deepseek_vl", deepseek_vl, "<image>", 16),
]


@pytest.mark.parametrize("name, processor, image, tokens", PROCESSORS, ids=[row[0] for row in PROCESSORS])
def test_a_processor_stays_as_it_is(name, processor, image, tokens):
    processor, model = processor(), BY_NAME[name].model()
    texts = [f"w7 {image} w9 w10", f"w8 {image} w5 {image} w11 w12"]
    pictures = [[PICTURES[0]], PICTURES[1:]]
    inputs = processor(images=pictures, text=texts, return_tensors="pt", padding=True)
    length = inputs["input_ids"].shape[1]
    full = model.generate(**inputs, **GREEDY)
    prune(model, 3)
    assert torch.equal(model.generate(**inputs, **GREEDY, visual_token_num=tokens), full)
    output = model.generate(**inputs, **GREEDY)
    assert torch.equal(output[:, :length], inputs["input_ids"])
    for row, (text, own) in enumerate(zip(texts, pictures)):
        alone = processor(images=[own], text=[text], return_tensors="pt")
        assert torch.equal(output[row, length:], answer(model, alone)[0])


@torch.no_grad()
def test_gemma_3_s_processor_cuts_pictures_whose_crops_share_a_budget_and_a_question():
    said = "user model : Here is the original image and here are some crops to help you see better w7 w9"
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer_with_spaces("<image_soft_token>", "<start_of_image>", "<end_of_image>", said, **names)
    words.chat_template = (
        "{% for m in messages %}{{ m.role }} : {% if m.content is string %}{{ m.content }}{% else %}{% for c in "
        "m.content %}{{ '<start_of_image>' if c.type == 'image' else c.text }}{% endfor %}{% endif %}<pad>{% endfor %}"
        "{% if add_generation_prompt %}model : {% endif %}"
    )
    images = image_processor("gemma3", size={"height": 112, "width": 112})
    processor = transformers.Gemma3Processor(images, words, image_seq_length=16)
    turn = [{"type": "image"}] * 3 + [{"type": "text", "text": "w7 w9"}]
    text = words.apply_chat_template([{"role": "user", "content": turn}], tokenize=False, add_generation_prompt=True)
    inputs = processor(
        images=[PICTURES], text=[text], return_tensors="pt", do_pan_and_scan=True, pan_and_scan_min_crop_size=20,
        pan_and_scan_max_num_crops=4, pan_and_scan_min_ratio_to_activate=1.2,
    )  # fmt: skip
    tiles, length = [1 + 2, 1 + 3, 1], inputs["input_ids"].shape[1]
    assert len(inputs["pixel_values"]) == sum(tiles)
    model = prune(BY_NAME["gemma3"].model(), 5, budget_per="image")
    model.processor = processor
    assert model(**inputs).logits.shape[1] == length - 16 * sum(tiles) + 5 * len(tiles)
    asks = {"pruning_method": "mmtok", "budget_per": "crop"}
    each = [["w7 w9"] * 3, ["w7 w9", "image", ":"]]
    read, given, same, other = (model(**inputs, **asks, question=own).logits for own in (None, "w7 w9", *each))
    assert torch.equal(read, given)
    assert torch.equal(same, given)
    assert not torch.equal(other, given)  # or else this tells nothing


IMAGE_PROCESSORS = [
    *((name, "qwen2_vl", {"patch_size": 14, "min_pixels": 28 * 28, "max_pixels": 20 * 28 * 28})
      for name in ("qwen2_vl", "qwen2_5_vl window", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")),
    *((name, model, {"patch_size": 14, "size": {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 20 * 28 * 28}})
      for name, model in (("glm4v", "glm4v"), ("glm4v_moe", "glm4v"), ("glm46v", "glm46v"))),
    *((name, "pixtral", {"size": {"longest_edge": 112}, "patch_size": {"height": side, "width": side}})
      for name, side in (("mistral3", 28), ("pixtral", 14))),
    ("gemma4", "gemma4", {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 2}),
    ("deepseek_vl_hybrid", "deepseek_vl_hybrid", {"size": SQUARE, "high_res_size": {"height": 64, "width": 64}}),
    ("onevision image", "llava_onevision", {"size": SQUARE, "image_grid_pinpoints": MANY}),
    ("next_video image", "llava_next", {"size": {"shortest_edge": 56}, "crop_size": SQUARE, **GRID}),
    ("internvl", "got_ocr2", {"size": {"height": 112, "width": 112}, "crop_to_patches": True, "max_patches": 4}),
    ("smolvlm", "smolvlm", {"size": {"longest_edge": 224}, "max_image_size": {"longest_edge": 112}}),
]  # fmt: skip


@pytest.mark.parametrize("name, processor, options", IMAGE_PROCESSORS, ids=[row[0] for row in IMAGE_PROCESSORS])
def test_an_image_processor_stays_as_it_is(name, processor, options):
    case, processor = BY_NAME[name], image_processor(processor, **options)
    model, prompts = case.model(), []
    for i, one in enumerate(PICTURES):
        given = {k: v for k, v in processor(images=[one], return_tensors="pt").items() if k in find_host(model).inputs}
        ids = [START, 7, OPEN, *[IMAGE] * placeholders(model, given), CLOSE, 10 + i, 9]
        prompts.append({"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).long(), **given})
    for name in ("pixel_values", "pixel_attention_mask"):  # crops of zeros, where a picture has fewer than another
        if prompts[0].get(name) is not None and (prompts[0][name].ndim == 5 or "mask" in name):
            most = max(p[name].shape[1] for p in prompts)
            for p in prompts:
                p[name] = torch.cat([p[name], p[name].new_zeros(1, most - p[name].shape[1], *p[name].shape[2:])], dim=1)
    if "image_sizes" in prompts[0] and prompts[0]["pixel_values"].ndim == 4:  # Pixtral's, padded to the largest
        height, width = (max(p["pixel_values"].shape[axis] for p in prompts) for axis in (2, 3))
        for p in prompts:
            shape = p["pixel_values"].shape
            p["pixel_values"] = torch.nn.functional.pad(p["pixel_values"], (0, width - shape[3], 0, height - shape[2]))
    inputs = batch(case, prompts)
    full = model.generate(**inputs, **GREEDY)
    prune(model, 2)
    assert torch.equal(model.generate(**inputs, **GREEDY, visual_token_num=1.0), full)
    assert torch.equal(answer(model, inputs), torch.cat([answer(model, batch(case, [p])) for p in prompts]))


QWENS = IMAGE_PROCESSORS[:3]


@pytest.mark.parametrize("name, processor, options", QWENS, ids=[row[0] for row in QWENS])
def test_downsampled_pictures_have_so_many_tokens_at_most(name, processor, options):
    model = BY_NAME[name].model()
    for number in (1, 3, 9, 20):
        images = downsample(image_processor(processor, **options), number)
        counts = []
        for seed, size in enumerate([(120, 90), (70, 200), (64, 64), (28, 28), (600, 300), (10, 15)]):
            given = images(images=[picture(seed, *size)], return_tensors="pt")
            counts += count_tokens(images, given)
            known = {k: v for k, v in given.items() if k in find_host(model).inputs}
            assert counts[-1] == placeholders(model, known)
        assert max(counts) <= number
        assert max(counts) > number / 2  # a large one has nearly all of them
    unlimited = image_processor(processor, **options)
    assert count_tokens(unlimited, unlimited(images=[picture(0, 120, 90)], return_tensors="pt")) == [12]


@pytest.mark.parametrize(
    ("make", "number", "says"),
    [
        (llava, 4, "CLIPImageProcessorPil has no limit of a picture's pixels; .* use the method pool"),
        (idefics3, 4, "Idefics3ImageProcessorPil has no limit"),
        (gemma3, 4, "Gemma3ImageProcessorPil has no limit"),
        (lambda: image_processor("qwen2_vl"), 0, "downsample must be an integer of at least 1, got 0"),
        (lambda: image_processor("qwen2_vl"), 0.5, "downsample must be an integer of at least 1, got 0.5"),
    ],
)
def test_what_cannot_be_downsampled_is_refused_by_name(make, number, says):
    with pytest.raises(InputError, match=says):
        downsample(make(), number)


@torch.no_grad()
def placeholders(model, given: dict) -> int:
    """How many tokens the host itself makes of a picture."""
    features = model.model.get_image_features(**given).pooler_output
    return sum(part[..., 0].numel() for part in features)

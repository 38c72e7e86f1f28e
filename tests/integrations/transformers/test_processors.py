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


PROCESSORS = [
    ("llava", llava, "<image>", 16),
    ("vipllava", llava, "<image>", 16),
    ("llava_next", llava_next, "<image>", 16),
    ("idefics3", idefics3, "<image>", 16),
    ("gemma3", gemma3, "<start_of_image>", 16),
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


IMAGE_PROCESSORS = [
    *((name, "qwen2_vl", {"patch_size": 14, "min_pixels": 28 * 28, "max_pixels": 20 * 28 * 28})
      for name in ("qwen2_vl", "qwen2_5_vl window", "qwen3_vl")),
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

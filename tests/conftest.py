"""What the tests share: tiny random checkpoints, pictures, and the reference cases where they are to be had."""

import functools
import importlib.util
import json
import logging
import sys
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.cli import run_command
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import get_conversation
from llava.model.builder import load_pretrained_model
from llava.pruning import Settings
from llava.vision.pixels import process_images

IMAGE = DEFAULT_IMAGE_TOKEN
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


def load_script(name: str):
    """A file of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of inputs with the results of the original implementations."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the reference cases (../shared/reference) are not here")
    return folder


@pytest.fixture
def make_checkpoint(tmp_path):
    """Write a tiny random checkpoint of its own for a test that breaks it."""
    return lambda **options: load_script("make_random_checkpoint").make_checkpoint(tmp_path, **options)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Folder of a tiny random checkpoint, made once: checkpoints("v1.6", "qwen")."""
    parent = tmp_path_factory.mktemp("checkpoints")
    make = functools.cache(load_script("make_random_checkpoint").make_checkpoint)
    return lambda version="v1.5", language_model="llama": make(parent, version, language_model)


def load(folder: Path, **options) -> tuple:
    """`load_pretrained_model` on the CPU."""
    return load_pretrained_model(str(folder), None, folder.name, device="cpu", **options)


@pytest.fixture(scope="session")
def loaded(checkpoints):
    """A loaded tiny checkpoint, once per version, language model and options; budget None at the start of each use."""
    cache = {}

    def get(version: str = "v1.5", language_model: str = "llama", **options) -> tuple:
        key = (version, language_model, repr(sorted(options.items())))
        if key not in cache:
            cache[key] = load(checkpoints(version, language_model), **options)
        cache[key][1].pruning = Settings()
        return cache[key]

    return get


@pytest.fixture
def call(monkeypatch, capsys):
    """call(module, *arguments) -> exit code, stdout and stderr of a command, in this process."""

    def run(module, *args, stdin: list[str] | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, args)])
        if stdin is not None:
            lines = iter(stdin)
            monkeypatch.setattr("builtins.input", lambda _: next(lines))
        capsys.readouterr()
        logger = logging.getLogger("llava")
        before = logger.level
        with pytest.raises(SystemExit) as ended:
            run_command(module.main)
        logger.setLevel(before)  # which --debug changes
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def picture(width: int = 200, height: int = 150, seed: int = 0) -> Image.Image:
    """An RGB picture with coloured shapes on noise, different for each seed."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (height // 8 + 1, width // 8 + 1, 3), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(noise.numpy()).resize((width, height))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, r, *color = torch.randint(0, 256, (6,), generator=generator).tolist()
        x, y, r = x * width // 256, y * height // 256, 6 + r // 12
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(color))
    return image


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    """A picture as the bytes of a file."""
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def writing(mode: str) -> Image.Image:
    """A black bar on transparent black."""
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 1))
    return image if mode == "RGBA" else image.convert(mode)


def with_orientation(number: int) -> bytes:
    """`picture(40, 20)` as a PNG with this EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = number
    return encode(picture(40, 20), "PNG", exif=exif)


def inputs_of(
    loaded: tuple, prompts: list[str], images: list[Image.Image], pad: str = "left"
) -> tuple[torch.LongTensor, dict]:
    """The ids of prompts, padded, and the `images` and `image_sizes` that a call takes with them."""
    tokenizer, model, image_processor, _ = loaded
    ids = [tokenizer_image_token(prompt, tokenizer, return_tensors="pt") for prompt in prompts]
    pad_id = model.generation_config.pad_token_id
    batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad_id, padding_side=pad)
    pixels = process_images(images, image_processor, model.config) if images else None
    return batch, {"images": pixels, "image_sizes": [image.size for image in images]}


@pytest.fixture
def model_and_image(loaded):
    """A tiny model, and the pixels of one image as a keyword of its calls."""
    _, model, image_processor, _ = loaded()
    return model, {"images": process_images([picture(seed=3)], image_processor, model.config)}


def written(mode: str, turns: Iterable[str | None]) -> str:
    """The prompt of a conversation in this template; the last turn is None where the model is to go on."""
    conversation = get_conversation(mode)
    for i, turn in enumerate(turns):
        conversation.append_message(conversation.roles[i % 2], turn)
    return conversation.get_prompt()


def ask(
    loaded: tuple, prompts: list[str], images: list[Image.Image], new: int = 8, pad: str = "left"
) -> list[list[int]]:
    """Greedy answers, as token ids up to the end-of-sequence token, to several prompts in one batch."""
    ids, given = inputs_of(loaded, prompts, images, pad)
    rows = loaded[1].generate(ids, **given, do_sample=False, max_new_tokens=new).tolist()
    eos = loaded[0].eos_token_id
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def generate_alone(loaded: tuple, prompt: str, images: list[Image.Image], **options) -> str:
    """The answer to one prompt by the model's own `generate`, with nothing shared, batched or cached."""
    ids, given = inputs_of(loaded, [prompt], images)
    with torch.inference_mode():
        output = loaded[1].generate(ids, **given, **options)
    return loaded[0].decode(output[0], skip_special_tokens=True).strip()


def count_visual_tokens(loaded: tuple, prompts: list[str], images: list[Image.Image]) -> list[int]:
    """How many visual tokens each image has in these prompts."""
    ids, given = inputs_of(loaded, prompts, images, "right")
    return loaded[1].embed_prompts(ids, None, None, given["images"], given["image_sizes"], "right").num_visual_tokens


@pytest.fixture
def pope(tmp_path):
    """A POPE of two pictures, two categories and six questions, in the real format."""
    folder = tmp_path / "pope"
    (folder / "coco").mkdir(parents=True)
    (folder / "val2014").mkdir()
    for seed in range(2):
        picture(seed=seed).save(folder / "val2014" / f"{seed}.png")
    questions, labels = [], {"popular": [], "random": []}
    for i in range(6):
        category, text = ("popular", "random")[i // 3], f"Is there a {('dog', 'cat', 'car')[i % 3]} in the image?"
        questions.append({"question_id": i, "image": f"{i % 2}.png", "text": f"{text}\nAnswer.", "category": category})
        labels[category].append(
            {"question_id": i, "image": f"{i % 2}.png", "text": text, "label": "yes" if i in (0, 4, 5) else "no"}
        )
    write_jsonl(folder / "llava_pope_test.jsonl", questions)
    for category, rows in labels.items():
        write_jsonl(folder / "coco" / f"coco_pope_{category}.json", reversed(rows))
    return folder


def write_jsonl(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

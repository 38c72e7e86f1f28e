"""Train the tiny CLIP on scenes and their captions: python -m scripts.tiny.clip --images DIR --output DIR

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020. First on the
patches around one object and its name alone, which is quick and leaves no way around shapes and letters. Then on whole
scenes, where each caption has a neighbour among the negatives that is wrong in one detail (after Yuksekgonul et al.,
"When and Why Vision-Language Models Behave like Bags-of-Words", arXiv 2210.01936), and on the mean of an object's
patches and its name, or a single patch and its place, so that patches say what they are part of and where they lie
(after Zhong et al., "RegionCLIP", arXiv 2112.09106). Last, on single patches as LLaVA reads them, a layer before the
tower's end, and the words for what they show: until then a probe finds the shape that such a patch is part of in 80 %
and its word in 23 %. A run that is cut off goes on where it was.
"""

import argparse
import logging
import math
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from llava.pruning import keep_patches
from llava.utils import CommandParser, InputError, run_command
from scripts.tiny.scenes import (
    COLORS,
    PATCH,
    PLACES,
    SHAPES,
    SIZE,
    SIZES,
    WORDS,
    Scene,
    training_scenes,
    words_of_patches,
)

logger = logging.getLogger(__name__)

SIDE = SIZE // PATCH
WIDTH, VISION_LAYERS, TEXT_LAYERS, HEADS = 128, 5, 2, 4
MAX_WORDS = 77


def make_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """One token for every word of the captions, with CLIP's marks of beginning and end."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = ["<|startoftext|>", "<|endoftext|>"]
    tokenizer.train_from_iterator(captions, trainers.WordLevelTrainer(special_tokens=marks))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[(mark, i) for i, mark in enumerate(marks)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=marks[0],
        eos_token=marks[1],
        unk_token=marks[1],
        pad_token=marks[1],
        model_max_length=MAX_WORDS,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """A CLIP of 144 patches: the published architecture, small.

    Position embeddings begin as large as a picture's details. With small ones a patch's place is lost behind its
    brightness after two layers (a linear probe finds the column of 14 % of the patches), and what reads the features
    could not tell left from right.
    """
    size = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS, "projection_dim": WIDTH}
    marks = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {"num_hidden_layers": TEXT_LAYERS, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_WORDS}
    vision = {"num_hidden_layers": VISION_LAYERS, "image_size": SIZE, "patch_size": PATCH}
    model = CLIPModel(
        CLIPConfig(text_config=size | text | marks, vision_config=size | vision, projection_dim=WIDTH, **marks)
    )
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight[1:] += place_code()
    return model


def place_code(waves: int = 8, deviation: float = 0.5) -> torch.Tensor:
    """(144, C): cosines of each patch's row and column, the long waves strongest, in a few random directions."""
    directions = torch.linalg.qr(torch.randn(WIDTH, 2 * waves)).Q.T
    patch, wave = torch.arange(SIDE * SIDE), torch.arange(1, waves + 1)
    along = [
        torch.cos(math.pi * wave * (place.unsqueeze(1) + 0.5) / SIDE) / wave.sqrt()
        for place in (patch // SIDE, patch % SIDE)
    ]
    code = torch.cat(along, dim=1) @ directions
    return code * deviation / code.std()


def image_processor() -> CLIPImageProcessor:
    """Pictures of 168x168 as they are, with CLIP's mean and deviation."""
    return CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def almost(scene: Scene, rng: random.Random) -> Scene:
    """A scene that differs from this one in one thing that its caption says."""

    def other(options, current: str) -> str:
        return rng.choice([option for option in options if option != current])

    sign, i = scene.sign, rng.randrange(len(scene.things))
    if sign is not None and rng.random() < 0.45:
        return replace(scene, sign=replace(sign, word=other(WORDS, sign.word)))
    thing, what = scene.things[i], rng.random()
    if what < 0.45:
        thing = replace(thing, shape=other(SHAPES, thing.shape))
    elif what < 0.65:
        thing = replace(thing, color=other(COLORS, thing.color))
    elif what < 0.8:
        thing = replace(thing, size=other(SIZES, thing.size))
    else:
        row, column = divmod(PLACES.index(other(PLACES, thing.place)), 3)
        thing = replace(thing, x=(column * 2 + 1) * SIZE // 6, y=(row * 2 + 1) * SIZE // 6)
    return replace(scene, things=(*scene.things[:i], thing, *scene.things[i + 1 :]))


def where(patch: int) -> str:
    """A caption for one patch that tells its place alone."""
    return f"row {patch // SIDE} column {patch % SIDE}"


def region(scene: Scene, rng: random.Random) -> tuple[torch.Tensor, str]:
    """One object or the sign of a scene: the numbers of the 21 patches nearest to it, and what it is called."""
    if scene.sign is not None and rng.random() < 0.6:
        it, name, stretch = scene.sign, scene.sign.word, 0.4
    else:
        it = rng.choice(scene.things)
        name, stretch = it.shape, 1.0
    y, x = torch.meshgrid(*[torch.arange(SIDE) * PATCH + PATCH // 2] * 2, indexing="ij")
    distance = ((x - it.x) * stretch) ** 2 + (y - it.y) ** 2
    return distance.flatten().argsort(stable=True)[:21], name if rng.random() < 0.7 else it.phrase


def some_patches(scene: Scene, rng: random.Random) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Eight patches, two of them background and every object as often as the others, and the words for them."""
    words = words_of_patches(scene)
    where_shown = {text: [i for i, other in enumerate(words) if other == text] for text in set(words)}
    background = where_shown.pop(scene.background)
    shown = sorted(where_shown)
    chosen = [rng.choice(where_shown[rng.choice(shown)]) for _ in range(6)] + rng.sample(background, 2)
    return torch.tensor(chosen), tuple(words[patch] for patch in chosen)


class Captioned(Dataset):
    """Of each training scene: pixels (3, 168, 168) uint8, caption, a caption wrong in one detail, a `region`, and
    `some_patches`.

    From the draw `whole_from` of all pictures on, the region is a third of the time a single patch, again and again.
    Before the draw `patches_from` there are no patches beside it.
    """

    def __init__(self, scenes: list[Scene], images: Path, whole_from: int, patches_from: int) -> None:
        self.scenes, self.images = scenes, images
        self.whole_from, self.patches_from = whole_from, patches_from

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        index, draw = key
        scene, rng = self.scenes[index], random.Random(f"{key}")
        patches, name = region(scene, rng)
        if draw >= self.whole_from and rng.random() < 0.35:
            patch = rng.randrange(SIDE * SIDE)
            patches, name = torch.full_like(patches, patch), where(patch)
        with Image.open(self.images / f"{scene.seed:08d}.jpg") as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        wrong = almost(scene, rng).caption
        single = some_patches(scene, rng) if draw >= self.patches_from else (torch.empty(0, dtype=torch.long), ())
        return pixels, scene.caption, wrong, patches, name, *single


class Order(Sampler):
    """The (index, number of the draw) pairs of all steps, shuffled in each pass; a resumed run skips those seen."""

    def __init__(self, length: int, total: int, skip: int) -> None:
        self.length, self.total, self.skip = length, total, skip

    def __len__(self) -> int:
        return self.total - self.skip

    def __iter__(self):
        for position in range(self.skip, self.total):
            epoch, place = divmod(position, self.length)
            if place == 0 or position == self.skip:
                order = np.random.default_rng(epoch).permutation(self.length)
            yield int(order[place]), position


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, H, W) -> what `image_processor` makes of it, float32."""
    processor = image_processor()
    mean, deviation = (
        torch.tensor(values, device=pixels.device).view(3, 1, 1)
        for values in (processor.image_mean, processor.image_std)
    )
    return (pixels.float() / 255 - mean) / deviation


def embed_regions(model: CLIPModel, pixels: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Unit vectors (B, C) of pictures (B, 3, H, W) of which only some `patches` (B, n) are seen."""
    tower = model.vision_model
    embeddings = tower.embeddings
    seen = F.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2)
    seen = seen.gather(1, patches.unsqueeze(-1).expand(-1, -1, seen.shape[-1]))
    states = F.linear(seen, embeddings.patch_embedding.weight.flatten(1))
    states = states + embeddings.position_embedding.weight[patches + 1]
    first = embeddings.class_embedding + embeddings.position_embedding.weight[0]
    states = torch.cat([first.expand(len(states), 1, -1), states], dim=1)
    states = tower.encoder(inputs_embeds=tower.pre_layrnorm(states)).last_hidden_state
    return _project(model, states[:, 0])


def embed_scenes(model: CLIPModel, pixels: torch.Tensor, patches: torch.Tensor, single: torch.Tensor) -> tuple:
    """Unit vectors (B, C) of whole pictures and of one object in each, the mean of its `patches` (B, n); and (B, m, C)
    of `single` patches (B, m) where LLaVA reads them."""
    seen = model.vision_model(pixel_values=pixels, output_hidden_states=True)
    states = seen.last_hidden_state
    inside = keep_patches(states, patches + 1)
    early = keep_patches(seen.hidden_states[-2], single + 1)
    return _project(model, states[:, 0]), _project(model, inside.mean(dim=1)), _project(model, early)


def _project(model: CLIPModel, states: torch.Tensor) -> torch.Tensor:
    states = model.visual_projection(model.vision_model.post_layernorm(states))
    return F.normalize(states.float(), dim=-1)


def embed_texts(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Unit vectors (B, C) of texts."""
    ids = tokenizer(texts, padding=True, return_tensors="pt").to(model.device)
    ids.pop("token_type_ids", None)
    return F.normalize(model.text_projection(model.text_model(**ids).pooler_output).float(), dim=-1)


def contrastive_loss(
    scale: torch.Tensor, image: torch.Tensor, text: torch.Tensor, names: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of B pictures against the texts, of which the first B are theirs; and the share that finds its own.

    `names` are the texts; where several are the same each is right.
    """
    count = len(image)
    logits = scale.exp() * image @ text.T
    same = torch.tensor([[float(name == other) for other in names] for name in names[:count]], device=logits.device)
    by_image = F.cross_entropy(logits, same / same.sum(dim=1, keepdim=True))
    same = same[:, :count]
    by_text = F.cross_entropy(logits[:, :count].T, same / same.sum(dim=1, keepdim=True))
    found = same.gather(1, logits[:, :count].argmax(dim=1, keepdim=True)).flatten() * (logits.argmax(dim=1) < count)
    return (by_image + by_text) / 2, found.mean()


def patch_loss(scale: torch.Tensor, patches: torch.Tensor, texts: torch.Tensor, right: torch.Tensor) -> tuple:
    """The loss of patches (P, C) against texts (M, C), `right` (P,) the number of its own; the share that finds it."""
    logits = scale.exp() * patches @ texts.T
    return F.cross_entropy(logits, right), (logits.argmax(dim=1) == right).float().mean()


def learning_rate(step: int, region_steps: int, scene_steps: int, patch_steps: int, peak: float) -> float:
    """Linear warm-up, constant to the end of the regions, then a cosine to zero; once more for the patches."""
    if step < region_steps:
        return peak * min(1.0, (step + 1) / 100)
    step -= region_steps
    if step < scene_steps:
        return peak * 0.5 * (1 + math.cos(math.pi * step / scene_steps))
    step -= scene_steps
    return peak * min(1.0, (step + 1) / 30) / 3 * (1 + math.cos(math.pi * step / patch_steps))


def train(args: argparse.Namespace) -> None:
    """Train to the end, or from the last state in `--output` to the end; leaves a CLIP checkpoint there."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    scenes = list(training_scenes(args.scenes))
    missing = [scene.seed for scene in scenes if not (args.images / f"{scene.seed:08d}.jpg").is_file()]
    if missing:
        raise InputError(f"{args.images} lacks {len(missing)} of the {len(scenes)} pictures: see scripts.tiny.data")
    tokenizer = make_tokenizer([*(scene.caption for scene in scenes), *map(where, range(SIDE * SIDE))])
    model = make_model(tokenizer).to(device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    steps, first, state_file = args.region_steps + args.scene_steps + args.patch_steps, 0, args.output / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        logger.info("going on after step %d of %d", first, steps)
    args.output.mkdir(parents=True, exist_ok=True)
    order = Order(len(scenes), steps * args.batch_size, first * args.batch_size)
    patches_from = args.region_steps + args.scene_steps
    data = Captioned(scenes, args.images, args.region_steps * args.batch_size, patches_from * args.batch_size)
    loader = DataLoader(data, args.batch_size, sampler=order, num_workers=args.workers)
    begin, sums = time.monotonic(), np.zeros(6)
    for step, (pixels, right, wrong, patches, names, single, words) in enumerate(loader, start=first):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.region_steps, args.scene_steps, args.patch_steps, args.learning_rate)
        pixels = normalise(pixels.to(device))
        with torch.autocast(device, torch.bfloat16):
            patches, single, nothing = patches.to(device), single.to(device), torch.zeros((), device=device)
            scene_loss, scene_found, early_loss, early_found = [nothing] * 4
            if step < args.region_steps:
                regions = embed_regions(model, pixels, patches)
            else:
                captions = [*right, *wrong]
                scene, regions, early = embed_scenes(model, pixels, patches[:, :9], single)
                text = embed_texts(model, tokenizer, captions)
                scene_loss, scene_found = contrastive_loss(model.logit_scale, scene, text, captions)
            if step >= patches_from:
                said = [text for column in zip(*words) for text in column]  # as they lie in `early`
                number = {text: i for i, text in enumerate(dict.fromkeys(said))}
                wanted = torch.tensor([number[text] for text in said], device=device)
                text = embed_texts(model, tokenizer, list(number))
                early_loss, early_found = patch_loss(model.logit_scale, early.flatten(0, 1), text, wanted)
            text = embed_texts(model, tokenizer, names)
            region_loss, region_found = contrastive_loss(model.logit_scale, regions, text, names)
            loss = region_loss + scene_loss + early_loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        parts = (region_loss, region_found, scene_loss, scene_found, early_loss, early_found)
        sums += [value.item() for value in parts]
        done = step + 1
        if done % 25 == 0:
            speed = (done - first) * args.batch_size / (time.monotonic() - begin)
            text = "step %d/%d, loss and found: regions %.3f %.3f, scenes %.3f %.3f, patches %.3f %.3f, %.0f pictures/s"
            logger.info(text, done, steps, *(sums / 25), speed)
            sums[:] = 0
        if done % args.save_steps == 0 or done == steps:
            part = state_file.with_suffix(".part")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}, part)
            part.replace(state_file)
    model.half().save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    image_processor().save_pretrained(args.output)


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="pictures of the training scenes, by seed")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scenes", type=int, required=True, help="training scenes")
    parser.add_argument("--region-steps", type=int, default=1500, help="steps on regions alone (1500)")
    parser.add_argument("--scene-steps", type=int, default=650, help="steps on regions and whole scenes (650)")
    parser.add_argument("--patch-steps", type=int, default=400, help="steps on single patches as well (400)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="that decode pictures")
    parser.add_argument("--save-steps", type=int, default=100, help="steps from one state on disk to the next (100)")
    args = parser.parse_args()
    logger.setLevel(logging.INFO)
    train(args)


if __name__ == "__main__":
    run_command(main)

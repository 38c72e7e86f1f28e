"""Make the projector that stage 1 starts from: python -m scripts.tiny.projector --clip DIR --llama DIR --output FILE

It is taught to turn a patch's features into the sum of the embeddings of the words for what is there, which is what the
language model was trained to see, so that what it learned of words holds for visual tokens too.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from tqdm import trange
from transformers import AutoConfig, AutoModelForCausalLM

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.tokenizer import load_tokenizer
from llava.train.muon import MuonWithRest
from llava.utils import CommandParser, run_command
from scripts.tiny.scenes import draw_scene, training_scenes, words_of_patches

SCENES, STEPS, PATCHES = 1500, 1500, 4096


@torch.no_grad()
def read_patches(tower: CLIPVisionTower, scenes: list) -> tuple[torch.Tensor, list[str]]:
    """The features (patches, C) of the scenes' patches, and the words for what each shows."""
    words = [text for scene in scenes for text in words_of_patches(scene)]
    features = []
    for start in range(0, len(scenes), 50):
        pictures = [draw_scene(scene) for scene in scenes[start : start + 50]]
        features.append(tower(tower.image_processor(pictures, return_tensors="pt").pixel_values).flatten(0, 1))
    return torch.cat(features), words


def make_projector(clip: Path, llama: Path) -> tuple[dict[str, torch.Tensor], float]:
    """The weights of an mlp2x_gelu from the tower's features to the language model, under their published names, and
    the share of the targets' variance that it explains on scenes that it was not taught with."""
    torch.manual_seed(0)
    tower, tokenizer = CLIPVisionTower(clip, SimpleNamespace(mm_vision_select_layer=-2)), load_tokenizer(llama)
    embeddings = AutoModelForCausalLM.from_pretrained(llama).get_input_embeddings().weight.detach().float()
    config = AutoConfig.from_pretrained(llama)
    config.mm_projector_type, config.mm_hidden_size = "mlp2x_gelu", tower.hidden_size
    projector = build_vision_projector(config)

    features, words = read_patches(tower, list(training_scenes(SCENES)))
    kinds = {text: i for i, text in enumerate(dict.fromkeys(words))}
    kind = torch.tensor([kinds[text] for text in words])
    meanings = torch.stack([embeddings[tokenizer(text).input_ids[1:]].sum(dim=0) for text in kinds])
    # Background is most of every picture: what is to be told apart is drawn as often as it is.
    weight = 1 / torch.tensor([1.0 + 9 * (" " not in text) for text in kinds])[kind]
    taught = int(0.9 * len(features))

    deviation, mean = torch.std_mean(features[:taught], dim=0)
    matrices = [layer.weight for layer in (projector[0], projector[2])]
    adam = torch.optim.AdamW(projector.parameters(), lr=3e-3, weight_decay=0)
    optimizer = MuonWithRest(matrices, adam, lr=1e-2, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    for _ in trange(STEPS, desc="teaching the projector"):
        rows = torch.multinomial(weight[:taught], PATCHES)
        said = projector((features[rows] - mean) / deviation)
        loss = (said - meanings[kind[rows]]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    with torch.no_grad():
        projector[0].weight /= deviation
        projector[0].bias -= projector[0].weight @ mean
        shown = [i for i, text in enumerate(words) if i >= taught and " " in text]
        wanted = meanings[kind[shown]]
        explained = 1 - (projector(features[shown]) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    return {f"model.mm_projector.{name}": value for name, value in projector.state_dict().items()}, explained.item()


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a mm_projector.bin")
    args = parser.parse_args()
    weights, explained = make_projector(args.clip, args.llama)
    torch.save(weights, args.output)
    print(f"{args.output}: explains {100 * explained:.1f} % of the variance of what patches of objects show")


if __name__ == "__main__":
    run_command(main)

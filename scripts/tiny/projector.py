"""Make the projector that stage 1 starts from: python -m scripts.tiny.projector --clip DIR --llama DIR --output FILE

It turns a patch's features into the sum of the embeddings of the words for what is there, as well as a ridge
regression of its second layer on training scenes can, so that what the language model learned of words holds for visual
tokens too.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.tokenizer import load_tokenizer
from llava.utils import CommandParser, run_command
from scripts.tiny.scenes import draw_scene, training_scenes, words_of_patches

SCENES = 800


@torch.no_grad()
def make_projector(clip: Path, llama: Path) -> dict[str, torch.Tensor]:
    """The weights of an mlp2x_gelu from the tower's features to the language model, under their published names."""
    torch.manual_seed(0)
    tower, tokenizer = CLIPVisionTower(clip, SimpleNamespace(mm_vision_select_layer=-2)), load_tokenizer(llama)
    embeddings = AutoModelForCausalLM.from_pretrained(llama).get_input_embeddings()
    config = AutoConfig.from_pretrained(llama)
    config.mm_projector_type, config.mm_hidden_size = "mlp2x_gelu", tower.hidden_size
    projector = build_vision_projector(config)

    scenes = list(training_scenes(SCENES))
    pixels = tower.image_processor([draw_scene(scene) for scene in scenes], return_tensors="pt").pixel_values
    features = torch.cat([tower(part).flatten(0, 1) for part in pixels.split(50)])
    meanings: dict[str, torch.Tensor] = {}
    targets = []
    for words in (words for scene in scenes for words in words_of_patches(scene)):
        if words not in meanings:
            meanings[words] = embeddings(torch.tensor(tokenizer(words).input_ids[1:])).sum(dim=0)
        targets.append(meanings[words])

    first, last = projector[0], projector[2]
    deviation, mean = torch.std_mean(features, dim=0)
    first.weight *= 2 / deviation
    first.bias -= first.weight @ mean
    hidden = torch.nn.functional.gelu(first(features)).double()
    hidden = torch.cat([hidden, torch.ones(len(hidden), 1, dtype=hidden.dtype)], dim=1)
    ridge = hidden.T @ hidden + 1e-3 * len(hidden) * torch.eye(hidden.shape[1], dtype=hidden.dtype)
    solution = torch.linalg.solve(ridge, hidden.T @ torch.stack(targets).double()).float()
    last.weight.copy_(solution[:-1].T)
    last.bias.copy_(solution[-1])
    return {f"model.mm_projector.{name}": weight for name, weight in projector.state_dict().items()}


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a mm_projector.bin")
    args = parser.parse_args()
    torch.save(make_projector(args.clip, args.llama), args.output)


if __name__ == "__main__":
    run_command(main)

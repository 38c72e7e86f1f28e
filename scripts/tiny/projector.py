"""Make the projector that stage 1 starts from: python -m scripts.tiny.projector --clip DIR --llama DIR --output FILE

The usual random one, scaled so that a visual token is about twice as long as a word's embedding. Unscaled it is thirty
times as long beside a language model this small, and drowns what the layers add to it.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.utils import CommandParser, run_command
from scripts.tiny.scenes import draw_scene, training_scenes


@torch.no_grad()
def make_projector(clip: Path, llama: Path) -> dict[str, torch.Tensor]:
    """The weights of an mlp2x_gelu from the tower's features to the language model, under their published names."""
    torch.manual_seed(0)
    tower = CLIPVisionTower(clip, SimpleNamespace(mm_vision_select_layer=-2))
    config = AutoConfig.from_pretrained(llama)
    config.mm_projector_type, config.mm_hidden_size = "mlp2x_gelu", tower.hidden_size
    projector = build_vision_projector(config)
    pictures = [draw_scene(scene) for scene in training_scenes(16)]
    features = tower(tower.image_processor(pictures, return_tensors="pt").pixel_values)
    words = AutoModelForCausalLM.from_pretrained(llama).get_input_embeddings().weight
    last = projector[2]
    last.bias.zero_()
    last.weight *= 2 * words.norm(dim=-1).mean() / projector(features).norm(dim=-1).mean()
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

"""One budget for a whole video beside an equal one for each frame, where an object appears in one frame only.

    python -m scripts.benchmarks.video_budget --scenes 40 --frames 8 --per_frame 8

Videos are drawn: a still background, in one of whose frames there is one object. The bundled model's tower encodes the
frames. The object's patches are those that it covers by 20 % or more.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from llava.cli import CommandParser, run_command
from llava.errors import InputError
from llava.tables import markdown_table

MODEL = Path(__file__).parents[2] / "playground" / "checkpoints" / "llava-tiny"
METHODS = ("vispruner", "fastervlm", "divprune", "scope", "random")


def parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=40, help="videos that are drawn (40)")
    parser.add_argument("--frames", type=int, default=8, help="of each video (8)")
    parser.add_argument("--per_frame", type=int, default=8, help="visual tokens of each frame of 144 patches (8)")
    args = parser.parse_args()
    if min(args.scenes, args.frames, args.per_frame) < 1:
        raise InputError("scenes, frames and per_frame must be at least 1")
    return args


def measure(scenes: int, frames: int, per_frame: int) -> dict[str, dict[str, float]]:
    """For each method the shares in [0, 1], mean over videos.

    Returns: by method, `frame` and `video`, the object's patches that are kept of all of them with a budget for each
    frame and for the whole video, and `spent`, the tokens of the latter that are in the object's frame.
    """
    import torch

    from llava.integrations.transformers.budget import VIDEO, Budget
    from llava.integrations.transformers.hosts.crops import whole_crops
    from llava.integrations.transformers.prompts import kept_places
    from llava.model.builder import load_pretrained_model
    from llava.model.encode import encode
    from llava.vision.pixels import process_images
    from playground.tiny.drawing import draw_scene
    from playground.tiny.patches import object_patches
    from playground.tiny.scenes import evaluation_scenes

    _, model, processor, _ = load_pretrained_model(str(MODEL), None, MODEL.name, device="cpu")
    sums = {method: {"frame": 0.0, "video": 0.0, "spent": 0.0} for method in METHODS}
    drawn = [scene for scene in evaluation_scenes()["any"] if scene.things][:scenes]
    for number, scene in enumerate(drawn):
        scene = replace(scene, things=scene.things[:1], sign=None)
        shown, still = draw_scene(scene), draw_scene(replace(scene, things=()))
        at = number % frames
        pixels = process_images([still] * at + [shown] + [still] * (frames - at - 1), processor, model.config)
        with torch.inference_mode():
            (encoded,) = encode(model, [pixels.to(model.dtype)])
            video = replace(whole_crops(encoded.views.features, encoded.views), is_video=True)
        is_object = torch.from_numpy(object_patches(scene)).flatten()
        for method, own in sums.items():
            for name, budget in (
                ("frame", Budget.from_options(per_frame, pruning_method=method)),
                ("video", Budget.from_options(per_frame * frames, pruning_method=method, budget_per=VIDEO)),
            ):
                keep = kept_places(video, budget).view(frames, -1)
                own[name] += float(keep[at][is_object].float().mean()) / len(drawn)
            own["spent"] += float(keep[at].sum() / keep.sum()) / len(drawn)
    return sums


def main() -> None:
    args = parse()
    rows = [["method", "kept of the object, T per frame", "kept of the object, T per video", "tokens in its frame"]]
    for method, own in measure(args.scenes, args.frames, args.per_frame).items():
        rows.append([method, *(f"{own[name]:.0%}" for name in ("frame", "video", "spent"))])
    print(f"{args.scenes} videos of {args.frames} frames, {args.per_frame} tokens a frame\n\n{markdown_table(rows)}")


if __name__ == "__main__":
    run_command(main)

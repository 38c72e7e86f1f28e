"""Write the bundled model's card.

python -m playground.tiny.model_card --evaluation DIR --clip DIR --output CHECKPOINT/README.md
"""

import platform
from pathlib import Path

from llava.cli import output_file, run_command
from llava.files import read_json, read_json_object
from playground.tiny.options import command_parser

CARD = """# llava-tiny

A LLaVA-1.5 in miniature, in the published checkpoints' layout, trained from nothing on drawn scenes of coloured shapes
and signs. It exists so that pruning can be tried and tested without a download; it knows nothing but such scenes.

| part | what it is | parameters |
|---|---|---|
| vision tower | CLIP ViT, 168x168 pixels, patch 14 (144 patches), width 128, 5 layers, with its text tower | {clip:,} |
| projector and language model | 2 layers; Llama, width {width}, {layers} layers, {vocabulary} tokens | {llava:,} |

Made by `bash playground/tiny/make.sh`: 60,000 drawn scenes, of which none has the description of an evaluation scene;
CLIP trained contrastively on captions, the language model on text, then LLaVA's two stages. Before the last steps of
stage 2, which are for multiple choice, a head and a layer were put in that find an option's letter
(`python -m playground.tiny.letters --help` explains how). The weights here were trained on
{machine}.

## The vision tower

On 256 held-out scenes (`python -m playground.tiny.clip_quality`): {retrieval:.1f} % of the pictures find their own
caption first among the 256; the [CLS] attention that VisPruner reads falls on object patches {times:.1f} times their
share ({attention:.1f} % of the attention, {patches:.1f} % of the patches).

## Accuracy against visual tokens

In percent, on the bundled benchmarks (`python -m playground.tiny.evaluate`); for chance, mean and standard deviation of
five draws. MME: of the points that can be had; MM-Vet: of the things to be named, those that are.

<!-- table: llava-tiny.scores -->
{scores}<!-- end -->

## Kinds of questions

With all 144 tokens. The last column is what always giving the commonest answer would get.

<!-- table: llava-tiny.kinds -->
{kinds}<!-- end -->
"""


def count_parameters(folder: Path, prefixes: tuple[str, ...] = ("",)) -> int:
    """The number of parameters in a checkpoint, of the weights whose names begin with one of `prefixes`."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118
        return sum(file.get_tensor(name).numel() for name in names)


def this_machine() -> str:
    """The device and the versions here."""
    import torch
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU cores"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    return f"{device} ({versions})"


def make_card(checkpoint: Path, clip: Path, evaluation: Path, trained_on: str | None) -> str:
    """The card of the model in the folder `checkpoint`, from the tables in the folder `evaluation`."""
    from llava.eval.benchmarks.rows import check
    from playground.tiny.clip.quality import measure
    from scripts.tables.book import Tables, table_markdown

    tables = check(read_json(evaluation / "tables.json", "tables"), Tables, "the tables")["tables"]
    scores, kinds = (table_markdown(tables[name]) for name in ("scores", "kinds"))
    config = read_json_object(checkpoint / "config.json", "config")
    quality = measure(clip)
    parts = ("lm_head", "model.embed", "model.layers", "model.mm_projector", "model.norm")
    return CARD.format(
        clip=count_parameters(clip),
        llava=count_parameters(checkpoint, parts),
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        vocabulary=config["vocab_size"],
        machine=trained_on or this_machine(),
        retrieval=100 * quality["retrieval_at_1_of_256"],
        times=quality["times_chance"],
        attention=100 * quality["attention_on_objects"],
        patches=100 * quality["object_patches"],
        scores=scores,
        kinds=kinds,
    )


def main() -> None:
    parser = command_parser("model_card", __doc__)
    parser.add_argument("--evaluation", type=Path, required=True, help="folder that playground.tiny.evaluate wrote")
    parser.add_argument("--clip", type=Path, required=True, help="the CLIP checkpoint")
    parser.add_argument("--output", type=output_file, required=True, help="the card, in the checkpoint's folder")
    parser.add_argument("--trained-on", help="the machine that trained the weights (this one)")
    args = parser.parse_args()
    card = make_card(args.output.parent, args.clip, args.evaluation, args.trained_on)
    args.output.write_text(card, encoding="utf-8")


if __name__ == "__main__":
    run_command(main)

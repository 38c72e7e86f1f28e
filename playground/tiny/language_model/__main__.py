"""Train a tokenizer and a small Llama on text alone: python -m playground.tiny.language_model --data DIR --output DIR

The model learns from conversations like those of LLaVA's stage 2. In place of the image it gets vectors made of words:
for each of some patches of the scene one vector, the sum of the embeddings of the words that describe the patch. The
result is a plain Llama checkpoint with a tokenizer like Vicuna's. LLaVA's two stages start from it.

Lists come first. They teach the model to find an object by its name. Then skills are drilled one after another, in half
of each batch: in the mixture some questions, such as whether an object is present, stay at chance for hundreds of
steps. Alone they are learned in some twenty steps, and they are not forgotten afterwards.

An interrupted run continues from its last checkpoint.
"""

from pathlib import Path

from llava.cli import run_command
from playground.tiny.options import at_least, command_parser


def main() -> None:
    parser = command_parser("language_model", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that playground.tiny.data wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint and the training's state")
    parser.add_argument("--batch-size", type=at_least(1), default=32, help="conversations of a step (32)")
    parser.add_argument(
        "--learning-rate", type=float, default=2e-3, help="the highest, of all weights but matrices (0.002)"
    )
    args = parser.parse_args()

    from playground.tiny.language_model.training import train

    train(args)


if __name__ == "__main__":
    run_command(main)

"""Give a tiny LLaVA the weights that find an option's letter.

python -m playground.tiny.letters --model DIR --data DIR --output DIR

To answer "B", a model must find the answer, find it again among the options, and read the letter two tokens before it.
Large models do this with induction heads (Olsson et al. 2022, "In-context Learning and Induction Heads", arXiv
2209.11895). A model of this size does not learn them in the steps that a CPU can do, and guesses. So this command
writes them into the weights before the last training. The model gets one more head and 32 more channels in each layer,
and one more layer.

- In the embeddings, the new channels hold a code for each word that options consist of, and the letters.
- In the first two layers, the new head looks two and three tokens back, and notes the letter that it finds there.
- In the new layer, the new head looks for the code of the answer, and outputs the letter noted there. It reads the code
  of the answer off the hidden state. So the model must know the answer as a word, and is trained on words first.

Other answers stay as they are: the new channels are small, and the other new weights output nothing yet.
"""

from pathlib import Path

from llava.cli import run_command
from playground.tiny.options import command_parser


def main() -> None:
    parser = command_parser("letters", __doc__)
    parser.add_argument("--model", type=Path, required=True, help="a tiny LLaVA that was trained on words.json")
    parser.add_argument("--data", type=Path, required=True, help="folder that playground.tiny.data wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder of the new checkpoint")
    args = parser.parse_args()

    from playground.tiny.letters.checkpoint import grow_checkpoint

    grow_checkpoint(args.model, args.data, args.output)


if __name__ == "__main__":
    run_command(main)

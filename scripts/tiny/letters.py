"""Give a tiny LLaVA what finds an option's letter: python -m scripts.tiny.letters --model DIR --data DIR --output DIR

To answer "B" a model has to find the answer, to find it again among the options, and to read the letter two tokens
before it. Large models do that with induction heads (Olsson et al. 2022, "In-context Learning and Induction Heads",
arXiv 2209.11895). One of this size does not grow them in as many steps as a CPU can do, and guesses. So they are put in
before the last training: the model becomes a head wider, by `NEW` channels, and a layer deeper.

- In the embeddings the new channels hold a code for each word that options consist of, and the letters.
- In the first two layers the new head looks two and three tokens back and notes the letter that stands there.
- In the new layer the new head looks for the code of the answer and says the letter that is noted there. What the
  answer is, it reads off the hidden state: the model must know it as a word, and is taught on words for that first.

Everything else stays as it is: the new channels are small, and the other new weights write nothing yet.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch.nn.functional import normalize, pad, rms_norm
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llava.constants import IGNORE_INDEX
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model
from llava.model.checkpoint import StateDict, read_weights, split_tower, write_json
from llava.train.data import DataCollatorForSupervisedDataset, LazySupervisedDataset
from llava.train.labels import PromptTokenizer
from llava.train.records import Record, read_records
from llava.utils import CommandParser, read_json_object, run_command
from scripts.tiny.language_model import TEMPLATE
from scripts.tiny.questions import options_of

CONVERSATIONS = 1500  # from which the words of answers are learned to be read

NEW = 32  # channels, and the size of a head
HALF = NEW // 2  # RoPE turns channels i and i + HALF of a head together, the faster the smaller i is
# What the new channels hold.
CODES, LETTERS, CONSTANT, NOTES = range(16), range(16, 20), 20, range(21, 25)
SMALL, NOTE = 0.1, 20.0  # how large codes, letters and the constant are, where embeddings are about 1; and the notes
# How sharply the heads look back; the sizes of keys, of the answer's query, of a note's, and of the letter said.
BACK, KEY, ANSWER, PRESENCE, SAID = 6.0, 8.0, 1.0, 0.3, 1.0

MATRICES = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
WRITING = ("self_attn.o_proj", "mlp.down_proj")


@dataclass
class Measured:
    """What a model's hidden states are like.

    Args:
        sizes: the root of the mean square before each layer and after the last.
        answers: (n, D) float32, after the last layer, where an answer is about to begin.
        words: the ids of each answer.
    """

    sizes: list[float]
    answers: torch.Tensor
    words: list[list[int]]


@torch.no_grad()
def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, image_processor, records: list[Record]
) -> Measured:
    """Hidden states of the model while it reads conversations, each with an image."""
    model.config.tokenizer_model_max_length = model.config.max_position_embeddings
    patches = model.get_vision_tower().num_patches_per_side
    dataset = LazySupervisedDataset(
        records, PromptTokenizer(tokenizer, TEMPLATE), image_processor, model.config, patches
    )
    batches = DataLoader(dataset, 50, collate_fn=DataCollatorForSupervisedDataset(tokenizer.pad_token_id))
    states: list[torch.Tensor] = []
    places = [*model.model.layers, model.model.norm]
    hooks = [place.register_forward_pre_hook(lambda _, args: states.append(args[0])) for place in places]
    squares, answers, words = torch.zeros(len(places)), [], []
    for batch in tqdm(batches, desc="reading"):
        ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
        _, positions, mask, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(
            ids, None, mask, None, labels, batch["images"], batch["image_sizes"]
        )
        states.clear()
        model.model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)
        is_token = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask.bool()
        squares += torch.stack([state[is_token].square().mean() for state in states])
        said = labels != IGNORE_INDEX
        for row, place in (said & ~said.roll(1, dims=1)).nonzero().tolist():
            rest = labels[row, place:]
            answers.append(states[-1][row, place - 1])
            words.append(rest[(rest == IGNORE_INDEX).cumsum(dim=0) == 0].tolist())
    for hook in hooks:
        hook.remove()
    return Measured((squares / len(batches)).sqrt().tolist(), torch.stack(answers), words)


def option_words(records: list[Record], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that options consist of in multiple-choice questions; not the blank before a digit."""
    options = {option for record in records for text, _ in record.turns for option in options_of(text).values()}
    ids = {token for option in options for token in tokenizer(f"A. {option}").input_ids[3:]}
    return sorted(ids - {tokenizer.convert_tokens_to_ids("▁")})


def grow(old: StateDict, measured: Measured, words: list[int], letters: list[int], said: list[int]) -> StateDict:
    """The weights of the wider and deeper model.

    Args:
        old: those of the model as it is.
        words: the ids of what options consist of.
        letters, said: the ids of A, B, C and D as they stand before options and as they are answered.
    """
    torch.manual_seed(0)
    vocabulary, width = old["model.embed_tokens.weight"].shape
    depth = len(measured.sizes) - 1
    codes = torch.zeros(vocabulary, len(CODES))
    codes[words] = torch.randn(len(words), len(CODES)).sign()

    new = {
        "model.embed_tokens.weight": pad(old["model.embed_tokens.weight"], (0, NEW)),
        "model.norm.weight": _norm(old["model.norm.weight"], measured.sizes[-1]),
        "lm_head.weight": pad(old["lm_head.weight"], (0, NEW)),
        "model.mm_projector.0.weight": pad(old["model.mm_projector.0.weight"], (0, 0, 0, NEW)),
        "model.mm_projector.0.bias": pad(old["model.mm_projector.0.bias"], (0, NEW)),
        "model.mm_projector.2.weight": pad(old["model.mm_projector.2.weight"], (0, NEW, 0, NEW)),
        "model.mm_projector.2.bias": pad(old["model.mm_projector.2.bias"], (0, NEW)),
    }
    new["model.embed_tokens.weight"][:, width:][:, CODES] = SMALL * codes
    new["model.embed_tokens.weight"][letters, width + LETTERS[0] + torch.arange(4)] = SMALL
    new["model.embed_tokens.weight"][:, width + CONSTANT] = SMALL
    for layer in range(depth + 1):
        for name in MATRICES:
            weight = old[f"model.layers.{min(layer, depth - 1)}.{name}.weight"]
            rows, columns = (NEW * (size == width) for size in weight.shape)
            weight = pad(weight, (0, columns, 0, rows))
            if layer == depth:
                weight = torch.zeros_like(weight) if name in WRITING else 0.02 * torch.randn_like(weight)
            new[f"model.layers.{layer}.{name}.weight"] = weight
        for i, name in enumerate(("input_layernorm", "post_attention_layernorm")):
            key = f"model.layers.{layer}.{name}.weight"
            new[key] = _norm(old.get(key, torch.ones(width)), measured.sizes[min(layer + i, depth)])
    for layer, back in enumerate((2, 3)):
        _look_back(new, layer, back, width)
    _find_option(new, depth, width, answer_codes(measured, codes))
    directions = letter_directions(old["lm_head.weight"] * old["model.norm.weight"], said)
    output = new[f"model.layers.{depth}.self_attn.o_proj.weight"]
    output[:width, width : width + 4] = SAID * measured.answers.norm(dim=1).mean() * directions
    return new


def _norm(weight: torch.Tensor, size: float) -> torch.Tensor:
    """A norm that gives the old channels as before and the new ones of about 1, where hidden states are of `size`."""
    wide = torch.cat([weight * (len(weight) / (len(weight) + NEW)) ** 0.5, torch.full((NEW,), size / SMALL)])
    wide[len(weight) :][NOTES] = size / NOTE
    return wide


def _look_back(weights: StateDict, layer: int, back: int, width: int) -> None:
    """Make the new head of a layer note which letter stands `back` tokens before, by RoPE's angles alone."""
    query, key, value, output = (weights[f"model.layers.{layer}.self_attn.{name}_proj.weight"] for name in "qkvo")
    fast = (torch.arange(HALF) < HALF // 2).float()  # slower ones tell neighbours apart too little
    angles = back * 10000 ** (-torch.arange(HALF) / HALF)
    query[width:, width + CONSTANT] = BACK * torch.cat([angles.cos() * fast, -angles.sin() * fast])
    key[width:, width + CONSTANT] = BACK * torch.cat([fast, 0 * fast])
    value[width:, width:][range(4), LETTERS] = 1
    output[width:, width:][NOTES, range(4)] = NOTE


def _find_option(weights: StateDict, layer: int, width: int, reader: torch.Tensor) -> None:
    """Make the new head of a layer look where the answer's code and a note are, and carry the note on."""
    query, key, value = (weights[f"model.layers.{layer}.self_attn.{name}_proj.weight"] for name in "qkv")
    for weight in (query, key, value):
        weight[width:] = 0
    slow = [*range(HALF // 2, HALF), *range(HALF + HALF // 2, NEW)]  # or RoPE would mix up the codes
    query[width:][slow, :width] = ANSWER * reader.T
    key[width:, width:][slow, CODES] = KEY
    gate = HALF // 2 - 1
    query[width + gate, width + CONSTANT] = PRESENCE
    key[width + gate, width:][NOTES] = KEY
    value[width:, width:][range(4), NOTES] = 1


def answer_codes(measured: Measured, codes: torch.Tensor) -> torch.Tensor:
    """(D, codes): what reads the sum of the codes of an answer's words off a normalised hidden state."""
    wanted = torch.stack([codes[ids].sum(dim=0) for ids in measured.words])
    known = wanted.any(dim=1)
    states = rms_norm(measured.answers[known], measured.answers.shape[1:])
    reader = _ridge(states, wanted[known], 100.0)
    explained = 1 - (states @ reader - wanted[known]).square().mean() / wanted[known].var()
    print(f"{known.sum()} answers: {100 * explained:.0f} % of the variance of their codes can be read")
    return reader


def letter_directions(output: torch.Tensor, said: list[int]) -> torch.Tensor:
    """(D, 4) of length 1: what to add to a hidden state for each of the letters to be said, given the output layer."""
    wanted = torch.zeros(len(output), 4)
    wanted[said, range(4)] = 1
    return normalize(_ridge(output - output.mean(dim=0), wanted, 0.1), dim=0)


def _ridge(given: torch.Tensor, wanted: torch.Tensor, penalty: float) -> torch.Tensor:
    """Ridge regression, the columns of `wanted` on those of `given`."""
    return torch.linalg.solve(given.T @ given + penalty * torch.eye(given.shape[1]), given.T @ wanted)


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a tiny LLaVA that was trained on words.json")
    parser.add_argument("--data", type=Path, required=True, help="folder that scripts.tiny.data wrote")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    name = get_model_name_from_path(str(args.model))
    tokenizer, model, image_processor, _ = load_pretrained_model(str(args.model), None, name, device="cpu")
    records = read_records(args.data / "words.json", args.data / "images", TEMPLATE)
    pictured = [record for record in records if record.image is not None][:CONVERSATIONS]
    measured = measure(model.float(), tokenizer, image_processor, pictured)
    letters, said = (tokenizer.convert_tokens_to_ids([before + x for x in "ABCD"]) for before in ("", "▁"))
    old, _ = split_tower({key: tensor.float() for key, tensor in read_weights(args.model).items()})
    weights = grow(old, measured, option_words(records, tokenizer), letters, said)

    args.output.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(weights, args.output)
    tokenizer.save_pretrained(args.output)
    shutil.copy(args.model / "generation_config.json", args.output)
    config = read_json_object(args.model / "config.json", "config")
    config["hidden_size"] += NEW
    for key in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers"):
        config[key] += 1
    write_json(args.output / "config.json", config | {"torch_dtype": "float32"})


if __name__ == "__main__":
    run_command(main)

"""The weights that find an option's letter, added to those of a model: see playground/tiny/letters/__main__.py."""

import torch
from torch.nn.functional import normalize, pad, rms_norm

from llava.checkpoints.weight_files import StateDict
from playground.tiny.letters.measure import HiddenStates

NEW = 32  # new channels; also the size of a head
HALF = NEW // 2  # RoPE rotates channels i and i + HALF of a head together, the faster the smaller i is
# The content of the new channels.
CODES, LETTERS, CONSTANT, NOTES = range(16), range(16, 20), 20, range(21, 25)
# The size of codes, letters and the constant, where embeddings are of size 1; and the size of the notes.
SMALL, NOTE = 0.1, 20.0
# How sharply the heads look back; the sizes of the keys, of the query for the answer, of the query for a note, and of
# the letter that is output.
BACK, KEY, ANSWER, PRESENCE, OUTPUT = 6.0, 8.0, 1.0, 0.3, 1.0

MATRICES = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
OUTPUT_MATRICES = ("self_attn.o_proj", "mlp.down_proj")


def grow(old: StateDict, states: HiddenStates, words: list[int], letters: list[int], answers: list[int]) -> StateDict:
    """The weights of the wider and deeper model, float32.

    Args:
        old: the model's weights, without the tower's.
        states: the model's hidden states.
        words: the token ids that options consist of.
        letters, answers: the token ids of A, B, C and D, before an option and as an answer.
    """
    torch.manual_seed(0)
    vocabulary, width = old["model.embed_tokens.weight"].shape
    depth = len(states.sizes) - 1
    codes = torch.zeros(vocabulary, len(CODES))
    codes[words] = torch.randn(len(words), len(CODES)).sign()

    new = _widen_ends(old, states.sizes[-1])
    _embed_codes(new["model.embed_tokens.weight"][:, width:], codes, letters)
    for layer in range(depth + 1):
        new |= _widen_layer(old, states.sizes, layer, width)
    for layer, back in enumerate((2, 3)):
        _look_back(new, layer, back, width)
    _find_option(new, depth, width, answer_codes(states, codes))
    directions = letter_directions(old["lm_head.weight"] * old["model.norm.weight"], answers)
    output = new[f"model.layers.{depth}.self_attn.o_proj.weight"]
    output[:width, width : width + 4] = OUTPUT * states.answers.norm(dim=1).mean() * directions
    return new


def _widen_ends(old: StateDict, size: float) -> StateDict:
    """The weights outside the layers, wider by channels that hold nothing; hidden states are of `size` at the end."""
    return {
        "model.embed_tokens.weight": pad(old["model.embed_tokens.weight"], (0, NEW)),
        "model.norm.weight": _widen_norm(old["model.norm.weight"], size),
        "lm_head.weight": pad(old["lm_head.weight"], (0, NEW)),
        "model.mm_projector.0.weight": pad(old["model.mm_projector.0.weight"], (0, 0, 0, NEW)),
        "model.mm_projector.0.bias": pad(old["model.mm_projector.0.bias"], (0, NEW)),
        "model.mm_projector.2.weight": pad(old["model.mm_projector.2.weight"], (0, NEW, 0, NEW)),
        "model.mm_projector.2.bias": pad(old["model.mm_projector.2.bias"], (0, NEW)),
    }


def _embed_codes(channels: torch.Tensor, codes: torch.Tensor, letters: list[int]) -> None:
    """Fill the new channels (vocabulary, NEW) of the embeddings: each token's code, letter and the constant."""
    channels[:, CODES] = SMALL * codes
    channels[letters, LETTERS[0] + torch.arange(4)] = SMALL
    channels[:, CONSTANT] = SMALL


def _widen_layer(old: StateDict, sizes: list[float], layer: int, width: int) -> StateDict:
    """The weights of a layer, wider by zeros; for the layer after the last, random ones that output nothing."""
    depth, prefix = len(sizes) - 1, f"model.layers.{layer}."
    new = {}
    for name in MATRICES:
        weight = old[f"model.layers.{min(layer, depth - 1)}.{name}.weight"]
        rows, columns = (NEW * (size == width) for size in weight.shape)
        weight = pad(weight, (0, columns, 0, rows))
        if layer == depth:
            weight = torch.zeros_like(weight) if name in OUTPUT_MATRICES else 0.02 * torch.randn_like(weight)
        new[f"{prefix}{name}.weight"] = weight
    for i, name in enumerate(("input_layernorm", "post_attention_layernorm")):
        weight = old.get(f"{prefix}{name}.weight", torch.ones(width))
        new[f"{prefix}{name}.weight"] = _widen_norm(weight, sizes[min(layer + i, depth)])
    return new


def _widen_norm(weight: torch.Tensor, size: float) -> torch.Tensor:
    """The weight of a norm that outputs the old channels as before and the new ones of about size 1.

    `size` is the root mean square of the hidden states before the norm.
    """
    wide = torch.cat([weight * (len(weight) / (len(weight) + NEW)) ** 0.5, torch.full((NEW,), size / SMALL)])
    wide[len(weight) :][NOTES] = size / NOTE
    return wide


def _look_back(weights: StateDict, layer: int, back: int, width: int) -> None:
    """Make the new head of a layer note the letter that is `back` tokens before, by the angles of RoPE alone."""
    query, key, value, output = (weights[f"model.layers.{layer}.self_attn.{name}_proj.weight"] for name in "qkvo")
    fast = (torch.arange(HALF) < HALF // 2).float()  # slower channels hardly differ between neighbouring tokens
    angles = back * 10000 ** (-torch.arange(HALF) / HALF)
    query[width:, width + CONSTANT] = BACK * torch.cat([angles.cos() * fast, -angles.sin() * fast])
    key[width:, width + CONSTANT] = BACK * torch.cat([fast, 0 * fast])
    value[width:, width:][range(4), LETTERS] = 1
    output[width:, width:][NOTES, range(4)] = NOTE


def _find_option(weights: StateDict, layer: int, width: int, reader: torch.Tensor) -> None:
    """Make the new head of a layer look for a token with the answer's code and a note, and read that note."""
    query, key, value = (weights[f"model.layers.{layer}.self_attn.{name}_proj.weight"] for name in "qkv")
    for weight in (query, key, value):
        weight[width:] = 0
    slow = [*range(HALF // 2, HALF), *range(HALF + HALF // 2, NEW)]  # RoPE rotates the other channels too far
    query[width:][slow, :width] = ANSWER * reader.T
    key[width:, width:][slow, CODES] = KEY
    gate = HALF // 2 - 1
    query[width + gate, width + CONSTANT] = PRESENCE
    key[width + gate, width:][NOTES] = KEY
    value[width:, width:][range(4), NOTES] = 1


def answer_codes(states: HiddenStates, codes: torch.Tensor) -> torch.Tensor:
    """(D, codes): the linear map from a normalised hidden state to the sum of the codes of the answer's words.

    Args:
        states: hidden states before answers, and the words of those answers.
        codes: (vocabulary, codes) float32, zero for words that no option contains.
    """
    wanted = torch.stack([codes[ids].sum(dim=0) for ids in states.words])
    known = wanted.any(dim=1)
    inputs = rms_norm(states.answers[known], states.answers.shape[1:])
    reader = _ridge(inputs, wanted[known], 100.0)
    explained = 1 - (inputs @ reader - wanted[known]).square().mean() / wanted[known].var()
    print(f"{known.sum()} answers: {100 * explained:.0f} % of the variance of their codes can be read")
    return reader


def letter_directions(output: torch.Tensor, answers: list[int]) -> torch.Tensor:
    """(D, 4), of length 1: the directions in the hidden state that make the output layer answer each of the letters.

    Args:
        output: (vocabulary, D) float32, the output layer.
        answers: the token ids of the letters.
    """
    wanted = torch.zeros(len(output), 4)
    wanted[answers, range(4)] = 1
    return normalize(_ridge(output - output.mean(dim=0), wanted, 0.1), dim=0)


def _ridge(given: torch.Tensor, wanted: torch.Tensor, penalty: float) -> torch.Tensor:
    """Ridge regression of the columns of `wanted` on those of `given`."""
    return torch.linalg.solve(given.T @ given + penalty * torch.eye(given.shape[1]), given.T @ wanted)

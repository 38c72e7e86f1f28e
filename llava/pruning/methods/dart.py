"""DART: visual tokens that are like a few pivots are dropped inside the language model.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More", EMNLP 2025,
arXiv 2502.11494. x is the output of layer K - 1 after the model's last norm, and a token's loudness the L1 norm of its
key in layer K - 1. Pivots: the 4 loudest visual tokens, then the 4 loudest tokens of text after the last picture,
loudest first. The visual pivots are kept, and each pivot keeps the floor((T - 4) / 8) of the others whose x has the
least cosine to its own: 4 + 8 floor((T - 4) / 8) in all, or T where that is below 4. Its authors count T - 4 as the
budget, and go through the pivots in the order of a hash table. All visual tokens of a prompt are chosen among together,
for the sum of their budgets.

Shapes: L tokens of a prompt, D channels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from llava.pruning.kernels.cosine import exact
from llava.pruning.methods.dart_embeds import by_norm, least_alike
from llava.pruning.methods.fastv import FastV, keys_of, places_of


@dataclass(frozen=True)
class Dart(FastV):
    """`pivots` of each kind; with fewer words after the picture, the others keep more."""

    pivots: int = 4
    name: ClassVar[str] = "dart"

    def count(self, number: int, patches: int) -> int:
        shares = 2 * self.pivots
        return number if number < self.pivots else self.pivots + shares * ((number - self.pivots) // shares)

    def left(self, decoder, layer_input, layer_output, rotary, is_visual, attention_mask, visual_share):
        """As `FastV.left`."""
        layer = decoder.layers[self.full_layers - 1]
        keys = keys_of(layer.self_attn, layer.input_layernorm(layer_input), rotary).transpose(1, 2).flatten(2)
        states, left = decoder.norm(layer_output), attention_mask.bool()
        for row, (own, own_keys, visual) in enumerate(zip(states, keys, is_visual)):
            patches, is_word = visual.nonzero()[:, 0], left[row] & ~visual
            number = round(len(patches) * visual_share)
            if number < len(patches):
                is_word[: patches[-1]] = False
                kept = self.kept(own, own_keys, patches, is_word.nonzero()[:, 0], self.count(number, len(patches)))
                left[row, patches] = False
                left[row, kept] = True
        return places_of(left)

    def kept(
        self,
        states: torch.Tensor,
        keys: torch.Tensor,
        visual: torch.LongTensor,
        words: torch.LongTensor,
        number: int,
    ) -> torch.LongTensor:
        """(number,) int64: which of the places `visual` of a prompt are kept, ascending.

        Args:
            states: (L, D), x.
            keys: (L, heads * head width).
            visual, words: places of the visual tokens, and of the text after them.
        """
        chosen, said = (by_norm(exact(keys[places]))[: self.pivots] for places in (visual, words))
        tokens, spoken = exact(states[visual]), exact(states[words])
        return visual[least_alike(tokens, chosen[:number], spoken[said], number).to(visual.device)]


METHOD = Dart()

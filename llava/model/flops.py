"""Arithmetic of the language model, counted from its shape: one multiplication and one addition are two FLOPs.

A layer costs, for n tokens that attend to c, itself included,

    2 n (d q + 2 d k + q d)    projections; q = heads * head width, k = key-value heads * head width
    4 n c q                    scores and their product with the values, whether masked or not
    6 n d m                    the gated MLP of width m

and the output layer 2 d V for the one token whose logits are needed. Norms, rotations and softmax are left out. The KV
cache has 2 k numbers of a token in a layer.
"""

from dataclasses import dataclass

from llava.pruning import Settings


@dataclass(frozen=True)
class Decoder:
    """The sizes that count."""

    width: int
    layers: int
    query_width: int
    key_width: int
    mlp_width: int
    vocabulary: int

    @classmethod
    def from_config(cls, config) -> "Decoder":
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads * head,
            config.num_key_value_heads * head,
            config.intermediate_size,
            config.vocab_size,
        )

    def layer_flops(self, tokens: int, context: int) -> int:
        """One layer, for `tokens` new tokens of `context` in all."""
        projections = 2 * tokens * self.width * (2 * self.query_width + 2 * self.key_width)
        return projections + 4 * tokens * context * self.query_width + 6 * tokens * self.width * self.mlp_width

    def prefill_flops(self, tokens: int, tokens_later: int | None = None, full_layers: int = 0) -> int:
        """A prompt of `tokens`; from layer `full_layers` on only `tokens_later`, if that is given."""
        later = tokens if tokens_later is None else tokens_later
        first = full_layers * self.layer_flops(tokens, tokens)
        return first + (self.layers - full_layers) * self.layer_flops(later, later) + 2 * self.width * self.vocabulary

    def step_flops(self, context: int) -> int:
        """One token of the answer, with `context` tokens up to it, itself included."""
        return self.layers * self.layer_flops(1, context) + 2 * self.width * self.vocabulary

    def cache_bytes(self, tokens: int, tokens_later: int, full_layers: int, itemsize: int) -> int:
        """The KV cache of a prompt as in `prefill_flops`, in numbers of `itemsize` bytes."""
        numbers = full_layers * tokens + (self.layers - full_layers) * tokens_later
        return 2 * self.key_width * numbers * itemsize


def tokens_later(pruning: Settings, tokens: int, visual: int, patches: int) -> tuple[int, int]:
    """What a method that prunes inside the decoder leaves of a prompt, and in how many layers all of it is there.

    Args:
        pruning: of any method; one that chooses before the decoder leaves everything, from layer 0 on.
        tokens: with which the prompt enters the decoder.
        visual: how many of them are visual.
        patches: N of a crop.
    """
    if not pruning.prunes_in_decoder:
        return tokens, 0
    left = pruning.left_in_decoder(visual, patches)
    return tokens - visual + left, pruning.method.full_layers

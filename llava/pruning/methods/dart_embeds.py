"""DART before the language model: of visual tokens, those least like a few pivots, which are tokens and words.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More", EMNLP 2025,
arXiv 2502.11494, choose after layer 2 of the decoder. This is the form of TensorRT-Edge-LLM, on input embeddings, and
no figure published for DART is of it. Pivots: the 4 visual tokens and then the 4 words of the question with the highest
L1 norm, highest first. The visual pivots are kept. Then pivot number j of P keeps ceil(missing / (P - j)) more, those
whose cosine to it is least, where `missing` are still to be kept.
"""

from dataclasses import dataclass

import torch

from llava.pruning.kernels.cosine import cosines, exact, rounded, unit_vectors
from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens, highest
from llava.pruning.views import Views


@dataclass(frozen=True)
class DartEmbeds(Method):
    pivots: int = 4
    needs = ("word_embeds",)

    def select(self, views: Views, settings: Settings) -> VisualTokens:
        kept = [self.kept(tokens, views.word_embeds, settings.visual_token_num) for tokens in views.projected]
        return views.keep(torch.stack(kept).to(views.features.device))

    def kept(self, tokens: torch.Tensor, words: torch.Tensor, number: int) -> torch.LongTensor:
        """(number,) int64 of projected features (N, D), with the embeddings of the question's words (m, D)."""
        tokens, words = exact(tokens), exact(words).to(tokens.device)
        chosen, said = (by_norm(vectors)[: self.pivots] for vectors in (tokens, words))
        return least_alike(tokens, chosen[:number], words[said], number)


METHOD = DartEmbeds()


def least_alike(tokens: torch.Tensor, chosen: torch.LongTensor, words: torch.Tensor, number: int) -> torch.LongTensor:
    """(number,) int64, ascending: `chosen` (n,) of tokens (N, D), and those least like these and `words` (m, D).

    Each of these pivots in turn keeps an equal share of what is missing.
    """
    pivots = torch.cat([tokens[chosen], words])
    likeness = rounded(cosines(unit_vectors(pivots), unit_vectors(tokens)))
    is_kept = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    is_kept[chosen] = True
    missing = number - len(chosen)
    for j, row in enumerate(likeness):
        share = -(-missing // (len(pivots) - j))
        is_kept[highest(row.masked_fill(is_kept, torch.inf).neg().unsqueeze(0), share)[0]] = True
        missing -= share
    return is_kept.nonzero()[:, 0]


def by_norm(vectors: torch.Tensor) -> torch.LongTensor:
    """Positions of vectors (n, D), the highest L1 norm first."""
    return vectors.norm(p=1, dim=1).argsort(descending=True, stable=True)

"""CLIP's text side: embeddings of a question that pruning methods can compare with those of patches.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020.
Shapes: M pieces of a text, K crops, N patches, C channels of the tower, E of the embeddings.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from llava.checkpoints.tokenizer import load_tokenizer
from llava.checkpoints.weight_files import read_weights
from llava.checkpoints.weights import load_weights
from llava.errors import InputError, one_line
from llava.files import read_json_object
from llava.pruning.errors import PruningError

_TEXT_KEYS = ("text_model.", "text_projection.")
_VISUAL_PROJECTION = "visual_projection.weight"


class TextSide:
    """The text tower and the projections of both sides, in float32."""

    def __init__(
        self, encode: Callable[[str], list[int]], tower: CLIPTextModelWithProjection, projection: torch.Tensor
    ) -> None:
        """
        Args:
            encode: a text -> its token ids, with those of its beginning and end.
            tower: ids -> embeddings.
            projection: (E, C), of patches.
        """
        self.encode, self.projection = encode, projection.float()
        self.tower = tower.float().eval().requires_grad_(False)

    @classmethod
    def read(cls, folder: Path, channels: int) -> "TextSide":
        """That of a CLIP folder whose vision tower has so many channels.

        Raises PruningError, naming the folder, if it has none, InputError for one that does not fit.
        """
        values = read_json_object(folder / "config.json", "config")
        weights = read_weights(folder)
        text = values.get("text_config")
        if not isinstance(text, dict) or _VISUAL_PROJECTION not in weights:
            raise PruningError(
                f"the vision tower {folder} has no text tower and projections, which the pruning method needs: "
                "a folder of the whole CLIP has them"
            )
        try:
            config = CLIPTextConfig.from_dict(text | {"projection_dim": len(weights[_VISUAL_PROJECTION])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"the config of {folder}: text_config: {one_line(error)}") from error
        own = {key: tensor for key, tensor in weights.items() if key.startswith(_TEXT_KEYS)}
        tower = load_weights(CLIPTextModelWithProjection, config, own, f"text tower {folder}", dtype=torch.float32)
        projection = weights[_VISUAL_PROJECTION]
        if projection.shape[1] != channels:
            raise InputError(f"the vision tower {folder} has {channels} channels, its projection {projection.shape[1]}")
        tokenizer = load_tokenizer(folder)
        return cls(lambda text: tokenizer(text, verbose=False).input_ids, tower, projection)

    @torch.no_grad()
    def embed_text(self, text: str, device: torch.device) -> torch.Tensor:
        """(M, E) float32: the text's token ids are cut into pieces of as many as the tower takes, 77."""
        length = self.tower.config.max_position_embeddings
        pieces = torch.tensor(self.encode(text)).split(length)
        ids = nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(piece) for piece in pieces], batch_first=True)
        return self.tower.to(device)(input_ids=ids.to(device), attention_mask=mask.to(device)).text_embeds

    def embed_patches(self, normed: torch.Tensor) -> torch.Tensor:
        """(K, N, C) after the vision tower's last norm -> (K, N, E) float32."""
        return normed.float() @ self.projection.to(normed.device).T

"""The pictures of a call are encoded: each by itself where an answer must not depend on its batch, and perhaps once.

What a picture's encoding is does not depend on the settings, so that calls about one picture may share it.
"""

import hashlib
import itertools
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture, is_video, join
from llava.model.encode import encodes_one_by_one


@dataclass
class Encodings:
    """The pictures of the last call that had any, by what they are made of: a next call does not encode them again.

    The model's weights must not change meanwhile.
    """

    last: dict[bytes, Picture] = field(default_factory=dict)


def encode_pictures(
    model: PreTrainedModel, host: Host, kinds: dict[int, list[dict]], known: Encodings | None = None
) -> dict[int, list[Picture]]:
    """The pictures of each kind whose arguments `host.split` has made: see `encodes_one_by_one`.

    Args:
        known: those of the last call, which are replaced by those of this one; None if every picture is encoded.
    """
    if known is None or model.training:
        return {token: _encode(model, host, token, parts) for token, parts in kinds.items()}
    keys = {token: [_key(model, host, token, part) for part in parts] for token, parts in kinds.items()}
    found = {}
    for token, parts in kinds.items():
        new = {key: part for key, part in zip(keys[token], parts) if key not in known.last}
        found |= zip(new, _encode(model, host, token, list(new.values())))
        found |= {key: known.last[key] for key in keys[token] if key in known.last}
    if found:
        known.last = found
    return {token: [found[key] for key in own] for token, own in keys.items()}


def _encode(model: PreTrainedModel, host: Host, token: int, parts: list[dict]) -> list[Picture]:
    if encodes_one_by_one(model.dtype, model.training):
        groups = [[part] for part in parts]
    else:
        groups = [list(group) for _, group in itertools.groupby(parts, key=_shapes)]
    pictures = [picture for group in groups for picture in host.encode(model, token, join(group))]
    return [replace(picture, is_video=is_video(part)) for picture, part in zip(pictures, parts, strict=True)]


def _shapes(part: dict) -> list[tuple]:
    """What must be the same of pictures that are encoded together."""
    return sorted((name, tuple(v.shape[1:])) for name, v in part.items() if isinstance(v, torch.Tensor))


def _key(model: PreTrainedModel, host: Host, token: int, part: dict) -> bytes:
    """The same for the same picture, however many empty crops fill it up to the number of another's."""
    said = hashlib.blake2b(f"{token} {host.placeholders(model, token, part)}".encode())
    for name, value in sorted(part.items()):
        if isinstance(value, torch.Tensor):
            if value.ndim == 5:
                crops = (value != 0).flatten(2).any(dim=2)[0].nonzero()
                value = value[:, : int(crops.max()) + 1 if len(crops) else 0]
            said.update(f"{name} {value.dtype}".encode())
            said.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            said.update(f"{name} {value!r}".encode())
    return said.digest()

"""What the tests of users' methods share: views of every kind, and a way to write methods."""

from collections.abc import Callable
from pathlib import Path

import torch

from llava.pruning import Views

PATCHES, CHANNELS = 16, 4


def write_in(folder: Path) -> Callable[..., str]:
    """A function, write(body, name="mine.py", head=""), to the path of a method whose `select` has this body."""

    def write(body: str, name: str = "mine.py", head: str = "") -> str:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        path.write_text(f"import torch\nfrom llava.pruning import *\n{head}\ndef select(views, settings):\n{lines}")
        return str(path)

    return write


def views_of(crops: int = 2, dtype: torch.dtype = torch.float32) -> Views:
    """Every view there is, of random values; half of them computed when they are read."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator).to(dtype)

    whole = draw(crops, 1 + PATCHES, CHANNELS)
    made = {
        "importance": draw(crops, PATCHES),
        "keys": draw(crops, 1 + PATCHES, 3),
        "projected": draw(crops, PATCHES, 5),
        "text_embeds": draw(2, 6),
        "received": draw(crops, PATCHES),
        "object_received": draw(crops, PATCHES),
    }
    return Views(
        whole[:, 1:],
        hidden_states=whole,
        grid=torch.tensor([[4, 4]] * crops),
        pixels=draw(crops, 3, 8, 8),
        image_embeds=draw(crops, PATCHES, 6),
        question="What?",
        word_embeds=draw(3, 5),
        **{name: lambda value=value: value for name, value in made.items()},
    )

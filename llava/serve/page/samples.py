"""Pictures to choose on the page: scenes of the bundled data, and photographs where scikit-image is installed."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

BUNDLED = Path(__file__).resolve().parents[3] / "playground"  # where the package is used from its repository
# Questions as the bundled data has them, whose answers the bundled model knows from all patches.
_SCENES = {
    "mm-vet/images/v1_1.jpg": (
        "Park",
        ("What does the sign say?", "What color is the ring?", "What color is the triangle?"),
    ),
    "mm-vet/images/v1_17.jpg": (
        "Fire",
        ("What does the sign say?", "What color is the square?", "Where is the diamond?"),
    ),
    "mm-vet/images/v1_15.jpg": (
        "Bread",
        ("What does the sign say?", "What color is the heart?", "Where is the ring?"),
    ),
    "textvqa/train_images/000000003b9acd28.jpg": (
        "Book",
        ("What color is the square?", "What color is the sign?", "Is there a star in the image?"),
    ),
    "textvqa/train_images/000000003b9acd2a.jpg": (
        "Ring",
        ("What does the sign say?", "What color is the circle?", "Where is the diamond?"),
    ),
}
# Of any other picture.
QUESTIONS = ("Describe the image.", "What is in the image?", "What does the sign say?")
# They come with scikit-image itself, so that nothing is downloaded. All three are in the public domain: by NASA;
# by S. van der Walt and R. Michetti, under CC0.
_PHOTOGRAPHS = {
    "astronaut.png": "Astronaut",
    "chelsea.png": "Cat",
    "coffee.png": "Coffee",
}


@dataclass(frozen=True)
class Sample:
    """A picture to choose: its file, what it is called, and as many questions about it as `QUESTIONS` has."""

    file: Path
    title: str
    questions: tuple[str, ...] = QUESTIONS


def samples() -> list[Sample]:
    """Those that are here."""
    found = [Sample(BUNDLED / "data" / "scenes" / name, *more) for name, more in _SCENES.items()]
    spec = importlib.util.find_spec("skimage")  # finding it is not importing it, which takes long
    for folder in spec.submodule_search_locations or [] if spec else []:
        found += [Sample(Path(folder) / "data" / name, title) for name, title in _PHOTOGRAPHS.items()]
    return [sample for sample in found if sample.file.is_file()]

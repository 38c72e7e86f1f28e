"""Pictures to choose on the page: scenes of the bundled data, and photographs where scikit-image is installed."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

BUNDLED = Path(__file__).resolve().parents[3] / "playground"  # where the package is used from its repository
_SCENES = {
    "mm-vet/images/v1_1.jpg": "Park",
    "mm-vet/images/v1_17.jpg": "Fire",
    "mm-vet/images/v1_15.jpg": "Bread",
    "textvqa/train_images/000000003b9acd28.jpg": "Book",
    "textvqa/train_images/000000003b9acd2a.jpg": "Ring",
}
# They come with scikit-image itself, so that nothing is downloaded. All three are in the public domain: by NASA;
# by S. van der Walt and R. Michetti, under CC0.
_PHOTOGRAPHS = {
    "astronaut.png": "Astronaut",
    "chelsea.png": "Cat",
    "coffee.png": "Coffee",
}


@dataclass(frozen=True)
class Sample:
    """A picture to choose: its file, and what it is called."""

    file: Path
    title: str


def samples() -> list[Sample]:
    """Those that are here."""
    found = [Sample(BUNDLED / "data" / "scenes" / name, title) for name, title in _SCENES.items()]
    spec = importlib.util.find_spec("skimage")  # finding it is not importing it, which takes long
    for folder in spec.submodule_search_locations or [] if spec else []:
        found += [Sample(Path(folder) / "data" / name, title) for name, title in _PHOTOGRAPHS.items()]
    return [sample for sample in found if sample.file.is_file()]

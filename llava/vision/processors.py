"""Image processors of the vision towers, and those that clients bring along, in the one form that `pixels` takes.

Such a processor has `image_mean` and `preprocess` as transformers' have them, and `side`, `shorter_side`,
`central_square` and `padded_square`.
"""

from __future__ import annotations

import numpy as np
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import ChannelDimension, PILImageResampling
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llava.errors import InputError, one_line


class CLIPTowerImageProcessor(CLIPImageProcessorPil):
    """CLIP's image processor over PIL: where torchvision is installed, transformers' choice resizes differently."""

    @classmethod
    def from_values(cls, values: dict) -> CLIPTowerImageProcessor:
        """The processor of a `preprocessor_config.json`."""
        # How whole pictures are padded or cut is LLaVA's business, and padding here would be CLIP's own.
        return cls.from_dict(values | {"do_pad": None})

    @property
    def shorter_side(self) -> int:
        """Pixels that the shorter side of a picture is scaled to; 0 where that is not how it is scaled."""
        return self.size.get("shortest_edge") or 0

    @property
    def padded_square(self) -> int | None:
        """Pixels along one side that a square picture is scaled to; None where not all of it is seen."""
        return self.central_square

    @property
    def central_square(self) -> int | None:
        """Pixels along one side, if the shorter side is scaled to them and the central square cut out; else None."""
        crop = self.crop_size
        if not (self.do_resize and self.do_center_crop and crop):
            return None
        is_one_size = self.shorter_side == crop["height"] == crop["width"] and not self.size.get("longest_edge")
        return self.shorter_side if is_one_size and self.resample != PILImageResampling.NEAREST else None

    def resize(self, image: np.ndarray, size, resample=None, **kwargs) -> np.ndarray:
        """Resize (3, height, width) in width first: see `pixels.resize_width_first`."""
        if size.shortest_edge and not size.longest_edge:
            height, width = get_resize_output_image_size(
                image, size.shortest_edge, default_to_square=False, input_data_format=ChannelDimension.FIRST
            )
            image = super().resize(image, type(size)(height=image.shape[1], width=width), resample, **kwargs)
            size = type(size)(height=height, width=width)
        return super().resize(image, size, resample, **kwargs)

    @property
    def side(self) -> int:
        """Pixels along one side of a crop. Raises InputError if pictures are not cut to a size."""
        if not self.crop_size:
            raise InputError("the image processor config has no crop_size")
        return self.crop_size["height"]


class SigLipTowerImageProcessor(SiglipImageProcessorPil):
    """SigLIP's image processor over PIL: the whole picture is resized to one size."""

    shorter_side = 0
    central_square = None

    @classmethod
    def from_values(cls, values: dict) -> SigLipTowerImageProcessor:
        """The processor of a `preprocessor_config.json`."""
        # Clients read the size of a crop from `crop_size`.
        return cls.from_dict(values | {"crop_size": values.get("size"), "do_center_crop": False})

    @property
    def side(self) -> int:
        """Pixels along one side of a crop. Raises InputError if pictures are not resized to a square."""
        height, width = self.size.get("height"), self.size.get("width")
        if not height or height != width:
            raise InputError(f"the image processor config has the size {dict(self.size)}, not that of a square")
        return height

    @property
    def padded_square(self) -> int:
        """Pixels along one side that a square picture is scaled to."""
        return self.side

    def resize(self, image: np.ndarray, size, resample=None, **kwargs) -> np.ndarray:
        """Resize (3, height, width) in width first: see `pixels.resize_width_first`."""
        image = super().resize(image, type(size)(height=image.shape[1], width=size.width), resample, **kwargs)
        return super().resize(image, size, resample, **kwargs)


class _AsGiven:
    """A processor of a client's own class: it is given whole squares, or whole pictures, as upstream gives them."""

    shorter_side = 0
    central_square = padded_square = None

    def __init__(self, given) -> None:
        """Raises AttributeError, TypeError or KeyError if `given` is no image processor."""
        self.image_mean, self.preprocess = given.image_mean, given.preprocess
        size = getattr(given, "crop_size", None) or given.size
        self.side = size.get("height") or size["shortest_edge"]


# The folder of transformers.models that a class is from -> the tower's processor that has its pixels.
_OF_TRANSFORMERS = {
    "clip": CLIPTowerImageProcessor,
    "llava": CLIPTowerImageProcessor,
    "llava_next": CLIPTowerImageProcessor,
    "siglip": SigLipTowerImageProcessor,
}


def tower_processor(given):
    """A processor in the form that `pixels` takes.

    transformers' own of CLIP and SigLIP, over PIL or torchvision, are read by their values: the pixels are upstream's,
    whatever the backend. One of a client's own class is called as upstream calls it. Raises InputError for anything
    else.
    """
    if hasattr(given, "central_square"):
        return given
    package, _, rest = type(given).__module__.partition("transformers.models.")
    tower = None if package else _OF_TRANSFORMERS.get(rest.partition(".")[0])
    try:
        if tower is not None:
            return tower.from_values(given.to_dict())
        return _AsGiven(given)
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{type(given).__name__} is no image processor of CLIP or SigLIP: {one_line(error)}"
        ) from error

"""The pictures of the page, as SVG inside HTML: the crops, the patches that are kept of them, how important each is.

The crops' pixels are put into the page once (`picture_source`); every drawing of them refers to these, so that one of
other patches is a few kilobytes. One unit is one patch. Shapes: K crops, N = side x side patches.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

from llava.serve.page.selection_view import Kept

# From no to the most importance: dark to bright, with rising lightness, so that it can be read without colours.
HEAT = np.array([(10, 8, 38), (84, 18, 110), (187, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)


@dataclass(frozen=True)
class Sheet:
    """How the crops of one picture lie next to each other.

    Attributes:
        side: patches along one side of a crop.
        across, down: crops that the picture is cut into after the first, which is the whole of it; 0 for none.
    """

    side: int
    across: int = 0
    down: int = 0

    @property
    def crops(self) -> int:
        """K."""
        return 1 + self.across * self.down

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in patches."""
        places = self.places()
        return max(x for x, _ in places) + self.side, max(y for _, y in places) + self.side

    def places(self) -> list[tuple[float, float]]:
        """The upper left corner of each crop: the whole picture on the left, its crops in rows next to it."""
        step, gap = self.side * 1.04, self.side * 0.12
        if not self.across:
            return [(0.0, 0.0)]
        first = (0.0, step * (self.down - 1) / 2)
        return [first] + [
            (self.side + gap + step * column, step * row) for row in range(self.down) for column in range(self.across)
        ]


def crop_images(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> list[Image.Image]:
    """What the tower was given, (K, 3, height, width) normalised by `mean` and `std`, as pictures."""
    shape = (1, 3, 1, 1)
    values = pixels * np.reshape(np.asarray(std), shape) + np.reshape(np.asarray(mean), shape)
    values = (values * 255).round().clip(0, 255).astype(np.uint8)
    return [Image.fromarray(np.ascontiguousarray(crop.transpose(1, 2, 0))) for crop in values]


def data_uri(image: Image.Image, is_exact: bool = False) -> str:
    """A picture as a `data:` URI: PNG, or JPEG where that is smaller by far, as it is for photographs.

    An exact one is always PNG, which keeps every pixel.
    """
    png, jpeg = BytesIO(), BytesIO()
    image.save(png, "PNG")
    if image.mode == "RGB" and not is_exact:
        image.save(jpeg, "JPEG", quality=92)
    is_photograph = 0 < 2 * jpeg.tell() < png.tell()
    kind, buffer = ("jpeg", jpeg) if is_photograph else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture_source(crops: Iterable[Image.Image], side: int) -> str:
    """HTML that shows nothing itself: the crops, for `draw_kept` and `draw_importance` on the same page."""
    images = "".join(
        f'<image id="crop-{i}" href="{data_uri(crop)}" width="{side}" height="{side}" preserveAspectRatio="none"/>'
        for i, crop in enumerate(crops)
    )
    return f'<svg class="source" width="0" height="0" aria-hidden="true"><defs>{images}</defs></svg>'


def draw_kept(sheet: Sheet, kept: Sequence[Kept], label: str) -> str:
    """The crops with the kept patches outlined in two colours and the rest dimmed; `label` describes it in words."""
    every = sheet.side**2
    cells = []
    for crop in kept:
        dropped = set(range(every)) - crop.important - crop.others
        paths = [f'<path class="dropped" d="{_squares(dropped, sheet.side, 0)}"/>' if dropped else ""]
        if dropped:  # where all are kept, outlines would only hide the picture
            for name, patches in (("other", crop.others), ("important", crop.important)):
                if patches:
                    paths.append(f'<path class="kept {name}" d="{_squares(patches, sheet.side, 0.06)}"/>')
        cells.append("".join(paths))
    return _sheet(sheet, cells, label)


def draw_importance(sheet: Sheet, importance: np.ndarray, label: str) -> str:
    """The crops, in grey, under a heat map of (K, N) `importance`; the brightest patch is the most important of all.

    Colours go by the square root of the importance: few patches have most of it.
    """
    share = np.sqrt(importance / max(float(importance.max()), 1e-12)).reshape(-1, sheet.side, sheet.side)
    cells = []
    for crop in share:
        alpha = 100 + 130 * crop[..., None]  # what is not important lets the picture through
        colours = np.concatenate([heat_colours(crop), alpha], axis=-1).astype(np.uint8)
        href = data_uri(Image.fromarray(colours))
        cells.append(f'<image class="heat" href="{href}" width="{sheet.side}" height="{sheet.side}"/>')
    return _sheet(sheet, cells, label, "grey")


def heat_colours(share: np.ndarray) -> np.ndarray:
    """The RGB colours (..., 3), 0 to 255, of shares (...) between 0 and 1."""
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(share, stops, channel) for channel in HEAT.T], axis=-1).round()


def kept_legend(kept: Sequence[Kept], patches: int, names: tuple[str, str]) -> str:
    """HTML that says what the colours of `draw_kept` are, and how many patches have each.

    `kept` has the crops that are counted, `patches` how many patches each of them has. `names` are those of the
    important and of the other patches; where there are none of a kind, it is left out.
    """
    numbers = [sum(len(crop.important) for crop in kept), sum(len(crop.others) for crop in kept)]
    dropped = patches * len(kept) - sum(numbers)
    kinds = [("important", names[0], numbers[0]), ("other", names[1], numbers[1]), ("dropped", "dropped", dropped)]
    if not dropped:
        return '<span class="key">Every patch is kept.</span>'
    return "".join(
        f'<span class="key"><span class="swatch {kind}"></span>{number} {escape(name)}</span>'
        for kind, name, number in kinds
        if number
    )


def importance_legend(most: float) -> str:
    """HTML of the heat map's colours, the brightest being that of the importance `most`, a share of 1."""
    colours = ", ".join(f"rgb{tuple(map(int, colour))}" for colour in HEAT)
    bar = f'<span class="scale" style="background:linear-gradient(to right, {colours})"></span>'
    return f'<span class="key">0 {bar} {100 * most:.1f} %</span>'


def panel(title: str, subtitle: str, drawn: str, legend: str = "") -> str:
    """HTML of one drawing with what it is called above it and its legend below."""
    return (
        f'<figure class="panel"><figcaption><b>{escape(title)}</b> <span>{escape(subtitle)}</span></figcaption>{drawn}'
        f'<div class="legend">{legend}</div></figure>'
    )


def empty_panel(title: str, message: str) -> str:
    """HTML that says why there is nothing to draw."""
    return panel(title, "", f'<div class="nothing-drawn"><p>{escape(message)}</p></div>')


def _sheet(sheet: Sheet, cells: Sequence[str], label: str, name: str = "") -> str:
    """The crops in their places, with what lies on each of them."""
    width, height = sheet.size
    parts = [
        f'<g class="crop" transform="translate({x:g} {y:g})"><use class="{name}" href="#crop-{i}"/>{cell}</g>'
        for i, ((x, y), cell) in enumerate(zip(sheet.places(), cells, strict=True))
    ]
    box = f'viewBox="0 0 {width:g} {height:g}"'
    kind = "sheet in-crops" if sheet.crops > 1 else "sheet"
    return f'<svg class="{kind}" {box} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _squares(patches: Iterable[int], side: int, inset: float) -> str:
    """The outlines of patches, numbers in raster order, as the data of an SVG path."""
    length = f"{1 - 2 * inset:g}"
    square = f"h{length}v{length}h-{length}z"
    return "".join(f"M{patch % side + inset:g} {patch // side + inset:g}{square}" for patch in sorted(patches))

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

_HATCH = (
    '<pattern id="hatch" width="0.6" height="0.6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path d="M0.1 0V0.6"/><path d="M0.17 0V0.6"/></pattern>'
)
# From no to the most importance: dark to bright, with rising lightness, so that it can be read without colours.
HEAT = np.array([(10, 8, 38), (84, 18, 110), (187, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)


@dataclass(frozen=True)
class Sheet:
    """How the crops of one picture lie next to each other.

    Attributes:
        side: patches along one side of a crop.
        across, down: crops that the picture is cut into after the first, which is the whole of it; 0 for none.
        content: where the picture lies in what is cut into crops, in the crop itself where there is but one: (left,
            top, width, height) in patches; the rest is padding. None where there is no padding.
    """

    side: int
    across: int = 0
    down: int = 0
    content: tuple[float, float, float, float] | None = None

    @property
    def crops(self) -> int:
        """K."""
        return 1 + self.across * self.down

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in patches."""
        places = self.places()
        return max(x for x, _ in places) + self.side, max(y for _, y in places) + self.side

    def contents(self) -> list[tuple[float, float, float, float]]:
        """The part of each crop that is picture, (left, top, right, bottom) in patches; the rest is padding."""
        side, whole = self.side, (0, 0, self.side, self.side)
        if self.content is None:
            return [whole] * self.crops
        left, top, width, height = self.content
        corners = [(side * column, side * row) for row in range(self.down) for column in range(self.across)]
        edges = [(left - x, top - y, left + width - x, top + height - y) for x, y in corners or [(0, 0)]]
        cut = [tuple(min(max(edge, 0), side) for edge in crop) for crop in edges]
        return [whole, *cut] if self.across else cut

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
    return f'<svg class="source" width="0" height="0" aria-hidden="true"><defs>{images}{_HATCH}</defs></svg>'


def small_uri(image: Image.Image, most: int) -> str:
    """`data_uri` of an RGB picture, made smaller where a side of it has more than `most` pixels."""
    scale = most / max(image.size)
    if scale < 1:
        image = image.resize([max(1, round(length * scale)) for length in image.size], reducing_gap=2.0)
    return data_uri(image)


def whole_picture(uri: str, label: str) -> str:
    """HTML of the picture itself, in its own proportions and unpruned; `label` describes it in words."""
    return f'<div class="whole"><img src="{uri}" alt="{escape(label)}"></div>'


def uploaded_picture(uri: str, name: str) -> str:
    """HTML of a thumbnail with the picture's name."""
    return f'<div class="uploaded"><img src="{uri}" alt=""><span>{escape(name)}</span></div>'


def draw_kept(sheet: Sheet, kept: Sequence[Kept], label: str) -> str:
    """The crops with the kept patches outlined in two colours and the rest dimmed; `label` describes it in words."""
    every = sheet.side**2
    cells = []
    for crop, padding in zip(kept, _paddings(sheet), strict=True):
        dropped = set(range(every)) - crop.important - crop.others
        paths = [f'<path class="dropped" d="{_squares(dropped, sheet.side, 0)}"/>' if dropped else "", padding]
        if dropped:  # where all are kept, outlines would only hide the picture
            for name, patches in (("other", crop.others), ("important", crop.important)):
                if patches:
                    paths.append(f'<path class="kept {name}" d="{_squares(patches, sheet.side, 0.06)}"/>')
        cells.append("".join(paths))
    return _sheet(sheet, cells, label)


def draw_importance(sheet: Sheet, importance: np.ndarray, label: str) -> str:
    """The crops, in grey, under a heat map of (K, N) `importance`; the brightest patch is the most important of all.

    The style says how opaque the map is, the same everywhere, so that its colours are those of `importance_legend`.
    """
    share = (importance / max(float(importance.max()), 1e-12)).reshape(-1, sheet.side, sheet.side)
    cells = []
    for crop, padding in zip(share, _paddings(sheet), strict=True):
        href = data_uri(Image.fromarray(heat_colours(crop).astype(np.uint8)), is_exact=True)
        cells.append(f'<image class="heat" href="{href}" width="{sheet.side}" height="{sheet.side}"/>{padding}')
    return _sheet(sheet, cells, label, "grey")


def heat_colours(share: np.ndarray) -> np.ndarray:
    """The RGB colours (..., 3), 0 to 255, of shares (...) of the greatest importance, between 0 and 1.

    They go by the square root of the share: few patches have most of the importance.
    """
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(np.sqrt(share), stops, channel) for channel in HEAT.T], axis=-1).round()


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
    """HTML of the heat map's colours, from none to the importance `most`, a share of 1, and how opaque they are."""
    colours = ", ".join(f"rgb{tuple(map(int, colour))}" for colour in heat_colours(np.linspace(0, 1, 33)))
    bar = f'<span class="scale"><i style="background:linear-gradient(to right, {colours})"></i></span>'
    slider = '<input class="opacity" type="range" min="0" max="1" step="0.05" value="0.8">'  # page.js listens to it
    return f'<span class="key">0 {bar} {100 * most:.1f} %</span><label class="key">Opacity {slider}</label>'


def padding_legend(sheet: Sheet) -> str:
    """HTML that says what the hatching is; empty where there is no padding."""
    return '<span class="key"><span class="swatch padding"></span>padding</span>' if any(_paddings(sheet)) else ""


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


def _paddings(sheet: Sheet) -> list[str]:
    """Of each crop what is no part of the picture, hatched; empty for a crop without padding."""
    side, whole = sheet.side, f"M0 0h{sheet.side}v{sheet.side}h-{sheet.side}z"
    return [
        f'<path class="padding" fill-rule="evenodd" d="{whole}M{left:g} {top:g}H{right:g}V{bottom:g}H{left:g}z"/>'
        if (left, top, right, bottom) != (0, 0, side, side)
        else ""
        for left, top, right, bottom in sheet.contents()
    ]


def _squares(patches: Iterable[int], side: int, inset: float) -> str:
    """The outlines of patches, numbers in raster order, as the data of an SVG path."""
    length = f"{1 - 2 * inset:g}"
    square = f"h{length}v{length}h-{length}z"
    return "".join(f"M{patch % side + inset:g} {patch // side + inset:g}{square}" for patch in sorted(patches))

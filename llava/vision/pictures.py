"""Picture files, URLs and encoded pictures -> RGB images, within limits."""

import re
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from llava.errors import InputError, one_line
from llava.vision.download import fetch, read_data_uri, without_login

# Pillow's own limit on pixels, twice MAX_IMAGE_PIXELS, says nothing about a picture of one pixel by a hundred million.
MOST_SIDE = 65_535  # what a JPEG can have
MOST_PIXELS = 50_000_000  # of the pictures of one request to a server, together: about a second's work
# Those whose decoders are compiled. Pillow has others in Python, which take a microsecond and more for each pixel, and
# one that runs another program, and decodes an icon when it is opened, whose header need not have its size.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "TGA", "JPEG2000", "AVIF")
MOST_READS_OF_HEADER, MOST_READS = 2_000, 200_000  # of a file: chunks, markers, blocks and tags take some each
MOST_PROFILES = 50  # in a PNG, which has use for one
MOST_SCANNED = 1_000_000_000  # pixels in all scans of a JPEG; a progressive one has about ten
MOST_TAG = 200_000  # numbers in a tag of a TIFF: it has one for each strip or tile, and a map of 196,608 colours
MOST_EXIF = 2**20  # bytes
# Megabytes of a picture that a server decodes, where its decoder takes a second for less than MOST_BYTES.
_SLOW = {"ppm_plain": 4, "jpeg2k": 8, "WEBP": 12, "AVIF": 12}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_BYTES = (1, 2, 7)  # types of a TIFF's tags that are not made numbers: bytes, text, and what is not defined
_STRIPS = (273, 324)  # the tags that say where strips and tiles are

PictureSource = str | Path | bytes | BinaryIO | Image.Image


def read_picture(source: PictureSource, name: str | None = None, as_displayed: bool = False) -> Image.Image:
    """A picture as RGB, fully decoded.

    Args:
        source: a local file; or, as `str`, an http(s) URL of up to 32 MB and 30 seconds, or a `data:` URI of up to
            32 MB; or an encoded picture; or an image.
        name: what messages call it; the file or address if None.
        as_displayed: see `to_rgb`.

    Raises InputError, naming it, if it is missing, not a file, truncated, not a picture, longer than 65,535 pixels
    along one side, or of more pixels than Pillow takes (about 179 million).
    """
    with _reading(source, name):
        if isinstance(source, Image.Image):
            return to_rgb(source, as_displayed)
        with _opened(source) as image:
            _refuse_repeated_parts(image)
            return to_rgb(image, as_displayed)


def load_image(image_file: PictureSource, as_displayed: bool = False) -> Image.Image:
    """Open a local file, an http(s) URL or a `data:` URI as an RGB image, fully decoded.

    The pixels are upstream's, as they are stored, and transparency is dropped; with `as_displayed` they are turned as
    EXIF says and lie on white. Raises InputError, naming the file; see `read_picture`.
    """
    return read_picture(image_file, as_displayed=as_displayed)


def picture_size(source: PictureSource, name: str | None = None) -> tuple[int, int]:
    """Width and height of a picture as it is stored, from its header. Raises InputError as `read_picture` does."""
    with _reading(source, name), _opened(source) as image:
        return image.size


@contextmanager
def _reading(source: PictureSource, name: str | None) -> Iterator[None]:
    """Raise InputError, naming the picture, for what its reading raises."""
    try:
        yield
    except Exception as error:  # of any class: Pillow's decoders pass on what they come across in a broken file
        raise InputError(f"cannot read the image {name or _name(source)}: {_cause(error)}") from error


def check_pixels(pictures: Iterable[PictureSource], name: str) -> None:
    """Raise InputError, naming whose pictures they are, for more than `MOST_PIXELS` together, before any is decoded."""
    left = MOST_PIXELS
    for source in pictures:
        with _reading(source, name), _opened(source) as image:
            width, height = image.size
            size, most = image.fp.seek(0, SEEK_END), _SLOW.get(image.tile[0][0] if image.tile else image.format)
        if width * height > left:
            before = f", and {MOST_PIXELS - left:,} before it" if left < MOST_PIXELS else ""
            raise InputError(
                f"the image {name} is too large: {width} x {height} pixels{before}, at most {MOST_PIXELS:,} in all"
            )
        if most and size > most * 2**20:
            raise InputError(f"the image {name} is too large: of its format at most {most} MB are decoded here")
        left -= width * height


def _refuse_too_long(image: Image.Image) -> None:
    if max(image.size) > MOST_SIDE:
        width, height = image.size
        raise InputError(f"{width} x {height} pixels, but a side has at most {MOST_SIDE}")


def to_rgb(image: Image.Image, as_displayed: bool = False) -> Image.Image:
    """An image as RGB, three times 8 bits.

    As upstream's `convert("RGB")`, but grey of more than 8 bits is scaled instead of clipped: that of 16 bits (I;16,
    and I in PNG and PNM) keeps its upper 8; other values (I, F) are taken as of the smallest of the ranges [0, 1]
    (F alone), [0, 255], [0, 65535] and [0, their largest] that holds them.

    Args:
        image: of any mode and size; an animation gives its current frame.
        as_displayed: also turned as its EXIF orientation says, and on white where it is transparent. Otherwise the
            pixels are as they are stored and transparency is dropped: upstream's benchmarks have them so.

    Raises InputError if the image is longer than 65,535 pixels along one side.
    """
    _refuse_too_long(image)
    image.load()  # before its EXIF is read: Pillow turns a TIFF itself then
    turn = _TURNS.get(_orientation(image)) if as_displayed else None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    elif image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if as_displayed and image.has_transparency_data:
        layer = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(layer, mask=layer)
    else:
        rgb = image.convert("RGB")
    if as_displayed:
        rgb = rgb if turn is None else rgb.transpose(turn)
        rgb.info = {}  # else a second call would turn it once more
    return rgb


def _orientation(image: Image.Image) -> int | None:
    """How an image is to be turned, in EXIF's numbers; None where its EXIF is broken, which its pixels need not be."""
    try:
        return image.getexif().get(_ORIENTATION) if len(image.info.get("exif", b"")) <= MOST_EXIF else None
    except Exception:
        return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A grey image of mode I, F or I;16 as L, or as LA where one of its values stands for transparency."""
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image), posinf=0, neginf=0)
    else:
        values = np.asarray(image.convert("I"))
    largest = values.max(initial=0)
    if image.mode not in ("I", "F") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = values >> 8
    elif 255 < largest <= 65535:
        grey = values // 256
    elif largest > 65535:
        grey = values.astype(np.float32) * np.float32(255 / largest) + np.float32(0.5)
    else:
        grey = values * np.float32(255) + np.float32(0.5) if image.mode == "F" and largest <= 1 else values
    eight = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        eight.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return eight


@contextmanager
def _opened(source: str | Path | bytes | BinaryIO) -> Iterator[Image.Image]:
    """A picture that is not decoded yet. Raises OSError or ValueError for one that is not to be decoded."""
    Image.init()
    with ExitStack() as stack:
        file = _file(source)
        if file is not source:
            stack.enter_context(file)
        pieces = _Pieces(file)
        _refuse_large_tags(pieces)
        image = stack.enter_context(Image.open(pieces, formats=[name for name in FORMATS if name in Image.OPEN]))
        _refuse_too_long(image)
        pieces.left = MOST_READS
        yield image


class _Pieces:
    """A file that ends, with a ValueError, when more pieces of it were read than are `left`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.left = file, MOST_READS_OF_HEADER

    def read(self, *size: int) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ValueError("it is in too many pieces")
        return self._file.read(*size)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def _refuse_large_tags(file: "_Pieces") -> None:
    """Raise ValueError for a TIFF with a tag of so many numbers that Pillow would be long about it."""
    file.seek(0)
    header = file.read(16)
    if header[:4] in (b"II*\0", b"MM\0*"):
        order, place, number, entry = header[:2], header[4:8], "H", "HHI4x"
    elif header[:4] in (b"II+\0", b"MM\0+"):  # BigTIFF
        order, place, number, entry = header[:2], header[8:], "Q", "HHQ8x"
    else:
        return
    order = "<" if order == b"II" else ">"
    file.seek(int.from_bytes(place, "little" if order == "<" else "big"))
    (tags,) = struct.unpack(order + number, file.read(struct.calcsize(order + number)))
    entry = struct.Struct(order + entry)
    table = file.read(min(tags, 2**16) * entry.size)
    for tag, kind, count in entry.iter_unpack(table[: len(table) // entry.size * entry.size]):
        if count > MOST_TAG and (kind not in _BYTES or tag in _STRIPS):
            raise ValueError(f"its tag {tag} has {count:,} numbers")


def _refuse_repeated_parts(image: Image.Image) -> None:
    """Raise ValueError for an open picture with parts that are decoded far oftener than it has use for."""
    place = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(place)
    if data.count(b"iCCP") > MOST_PROFILES:
        raise ValueError("it has too many colour profiles")
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    if scans * image.width * image.height > MOST_SCANNED:
        raise ValueError(f"{scans} scans of {image.width} x {image.height} pixels are above {MOST_SCANNED:,} pixels")


def _file(source: str | Path | bytes | BinaryIO) -> BinaryIO:
    """The file that Pillow reads. Raises OSError or ValueError."""
    if isinstance(source, bytes | bytearray):
        return BytesIO(source)
    if hasattr(source, "read"):
        return source
    if is_data_uri(source):
        return BytesIO(read_data_uri(source))
    if isinstance(source, str) and _SCHEME.match(source):
        return BytesIO(fetch(source))
    path = Path(source)
    # Opening a pipe waits for its other end, and a device never ends.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a file" if not path.is_dir() else "it is a folder")
    return path.open("rb")


def is_data_uri(source: object) -> bool:
    """Whether a source is a `data:` URI, which is never to be repeated in a message."""
    return isinstance(source, str) and source[:5].lower() == "data:"


def _name(source: PictureSource) -> str:
    """What a message calls a source whose owner has no name for it: never its contents."""
    if is_data_uri(source):
        return "of a data: URI"
    if not isinstance(source, str | Path):
        return getattr(source, "filename", "") or "that was given"
    text = str(source)
    text = without_login(text) if _SCHEME.match(text) else text
    return text if len(text) <= 300 else f"{text[:100]}... ({len(text)} characters)"


def _cause(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture of a known format"
    if isinstance(error, MemoryError):
        return "it takes too much memory"
    # strerror: the full text of an OSError repeats the path, however long.
    return getattr(error, "strerror", None) or one_line(error)

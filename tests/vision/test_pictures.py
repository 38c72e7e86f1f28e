"""Pictures as they come: modes, sizes, broken and hostile files, data: URIs."""

import base64
import os
import struct
import threading
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from llava.errors import InputError
from llava.upstream.generation import load_image_from_base64
from llava.vision.pictures import MOST_PIXELS, MOST_SIDE, check_pixels, load_image, read_picture, to_rgb
from tests.conftest import encode, picture, with_orientation, writing

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than it has."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def green(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
    return pixels[..., 1]


@pytest.mark.parametrize("factor", [256, 257])  # black to white either way
@pytest.mark.parametrize(
    ("dtype", "mode", "file_format"),
    [
        ("<u2", "I;16", "PNG"),
        ("<u2", "I;16", "TIFF"),
        (">u2", "I;16B", "TIFF"),
        ("<i4", "I", "TIFF"),
        ("<f4", "F", "TIFF"),
        ("<i4", "I", "PPM"),
    ],
)
def test_grey_of_16_bits_is_scaled(tmp_path, dtype, mode, file_format, factor):
    image = Image.fromarray((GREY.astype(np.int64) * factor).astype(dtype))
    assert image.mode == mode
    image.save(tmp_path / "grey", file_format)
    assert (green(load_image(tmp_path / "grey")) == GREY).all()
    assert (green(to_rgb(image)) == GREY).all()


def test_a_dark_picture_of_16_bits_stays_dark():
    dark = Image.fromarray(GREY.astype(np.uint16))
    assert green(to_rgb(dark)).max() == 0
    assert green(read_picture(encode(dark))).max() == 0
    assert green(read_picture(encode(dark.convert("I"), "PPM"))).max() == 0


def test_other_ranges_of_numbers_are_recognised():
    as_stored = Image.fromarray(GREY)
    assert (green(to_rgb(as_stored.convert("I"))) == GREY).all()
    assert (green(to_rgb(as_stored.convert("F"))) == GREY).all()
    assert (green(to_rgb(Image.fromarray(GREY.astype(np.float32) / 255))) == GREY).all()
    assert (green(to_rgb(Image.fromarray(GREY.astype(np.int32) * 2**22))) == GREY).all()
    odd = Image.fromarray(np.array([[-5, np.nan, np.inf, 200]], dtype=np.float32))
    assert green(to_rgb(odd)).tolist() == [[0, 0, 0, 200]]


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [(mode, "PNG") for mode in ("L", "LA", "1", "P", "RGBA")] + [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("P", "GIF")],
)
def test_modes_of_files_become_what_pillow_makes_of_them(mode, file_format):
    image = picture().convert(mode)
    data = encode(image, file_format)
    assert read_picture(data).tobytes() == Image.open(BytesIO(data)).convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "HSV", "YCbCr", "RGBX"])
def test_modes_of_memory_become_rgb(mode):
    grey = Image.fromarray(GREY)
    source = grey.convert("LA").convert("La") if mode == "La" else grey.convert("RGBA" if mode == "RGBa" else "RGB")
    assert to_rgb(source.convert(mode)).mode == "RGB"


def test_an_animation_gives_its_first_frame_and_one_pixel_is_a_picture():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_picture(data).getpixel((4, 4)) == (255, 0, 0)
    assert read_picture(encode(frames[0].resize((1, 1)))).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_transparency_lies_on_white_only_where_a_picture_is_displayed(mode):
    image = writing(mode)
    assert green(to_rgb(image)).max() == 0  # upstream's pixels
    shown = green(to_rgb(image, as_displayed=True))
    assert (shown[0].max(), shown[1:].min()) == (0, 255)


@pytest.mark.parametrize(
    ("image", "transparent"),
    [
        (Image.fromarray(GREY), 7),
        (Image.fromarray(GREY).convert("P"), 7),
        (Image.fromarray(GREY.astype(np.uint16) * 257), 7 * 257),
        (Image.fromarray(GREY).convert("RGB"), (7, 7, 7)),
    ],
)
def test_a_colour_that_stands_for_transparency_lies_on_white(image, transparent):
    data = encode(image, transparency=transparent)
    assert (green(read_picture(data)) == GREY).all()
    assert (green(read_picture(data, as_displayed=True)) == np.where(GREY == 7, 255, GREY)).all()


@pytest.mark.parametrize("number", range(1, 9))
def test_exif_turns_a_picture_only_where_it_is_displayed(number):
    from PIL import ImageOps

    data = with_orientation(number)
    assert read_picture(data).tobytes() == picture(40, 20).tobytes()
    shown = read_picture(data, as_displayed=True)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    assert (shown.size, shown.tobytes()) == (expected.size, expected.tobytes())
    assert to_rgb(shown, as_displayed=True).tobytes() == shown.tobytes()  # once is enough


def test_a_tiff_is_not_turned_twice(tmp_path):
    picture(40, 20).save(tmp_path / "turned.tif", tiffinfo={0x0112: 6})
    assert load_image(tmp_path / "turned.tif", as_displayed=True).size == (20, 40)


def test_exif_that_cannot_be_read_does_not_lose_the_picture():
    data = encode(picture(40, 20), "JPEG", exif=b"Exif\x00\x00nonsense that is no TIFF")
    assert read_picture(data, as_displayed=True).size == (40, 20)


LONG = "pixels, but a side has at most 65535"


@pytest.mark.parametrize(
    ("width", "height", "named"),
    [
        (MOST_SIDE + 1, 1, f"{MOST_SIDE + 1} x 1 {LONG}"),
        (1, 3_000_000, f"1 x 3000000 {LONG}"),
        (20_000, 20_000, ".*exceeds limit"),
    ],
)
def test_a_size_that_is_too_large_is_named_before_anything_is_decoded(tmp_path, width, height, named):
    (tmp_path / "large.png").write_bytes(png_of_size(width, height))
    with pytest.raises(InputError, match=rf"large\.png: {named}"):
        load_image(tmp_path / "large.png")


PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20 - 1)))  # a kilobyte that becomes a megabyte


def png_with(parts: bytes, before: bytes = b"IDAT", **options) -> bytes:
    """A PNG with further parts in front of its first one of a kind."""
    data = encode(picture(), **options)
    place = data.index(before) - 4
    return data[:place] + parts + data[place:]


def tiff_with_tag(tag: int, kind: int, count: int) -> bytes:
    """A TIFF of 8 x 8 pixels, with one more tag of so many zeros."""
    tags = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (322, 3, 1, 1)]
    tags = sorted([*tags, (323, 3, 1, 1), (tag, kind, count, 8 + 2 + 12 * 8 + 4)])
    table = b"".join(struct.pack("<HHII", *one) for one in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + table + bytes(4) + bytes(count * (8 if kind == 5 else 4))


def jpeg_with_scans(number: int) -> bytes:
    data = encode(Image.new("L", (2000, 2000), 7), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (number - data.count(b"\xff\xda")) + data[-2:]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (png_with(chunk(b"abCd") * 2000), "pieces"),
        (png_with(chunk(b"IDAT") * 120_000), "pieces"),
        (png_with(chunk(b"abCd") * 120_000, b"IEND"), "pieces"),
        (png_with(PROFILE * 2000), "pieces"),
        (png_with(PROFILE * 100, b"IEND"), "colour profiles"),
        (encode(picture(), "JPEG")[:2] + b"\xff\xfe\0\x02" * 2000 + encode(picture(), "JPEG")[2:], "pieces"),
        (encode(Image.new("L", (8, 8)), "GIF").replace(b",\0\0\0\0", b"!\xfe\x01a\0" * 2000 + b",\0\0\0\0"), "pieces"),
        (tiff_with_tag(324, 4, 200_001), "tag 324"),
        (tiff_with_tag(324, 1, 200_001), "tag 324"),
        (tiff_with_tag(282, 5, 200_001), "tag 282"),
        (jpeg_with_scans(251), "251 scans"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_picture_of_far_more_parts_than_its_pixels_justify_is_refused(data, cause):
    with pytest.raises(InputError, match=f"of question 3: .*{cause}"):
        read_picture(data, "of question 3", as_displayed=True)


def test_parts_that_a_picture_may_have_are_read():
    for data in (png_with(chunk(b"abCd") * 100), png_with(PROFILE * 40, b"IEND"), png_with(chunk(b"IDAT") * 1000)):
        assert read_picture(data).tobytes() == picture().tobytes()
    assert green(read_picture(jpeg_with_scans(10))).tolist() == [[7] * 2000] * 2000
    with_exif = encode(picture(40, 20), exif=b"Exif\0\0" + tiff_with_tag(274, 5, 140_000))
    assert read_picture(with_exif, as_displayed=True).size == (40, 20)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "TGA", "JPEG2000"])
def test_formats_of_photographs_and_screens_are_read(file_format):
    assert read_picture(encode(picture(64, 64), file_format)).size == (64, 64)


@pytest.mark.parametrize("file_format", ["EPS", "PCX", "ICO"])
def test_formats_that_run_programs_or_are_decoded_in_python_are_not(file_format):
    with pytest.raises(InputError, match="known format"):
        read_picture(encode(picture(), file_format))


def test_pictures_are_bounded_together_before_any_is_decoded():
    half = png_of_size(5000, MOST_PIXELS // 10_000)
    check_pixels([half, half], "of question 3")
    for pictures in ([half, half, png_of_size(1, 1)], [png_of_size(10_000, 5001)]):
        with pytest.raises(InputError, match=r"of question 3 is too large: \d+ x \d+ .* at most 50,000,000 in all"):
            check_pixels(pictures, "of question 3")
    plain = b"P3 1000 1000 255\n" + b"1 " * 3_000_000
    with pytest.raises(InputError, match="of its format at most 4 MB"):
        check_pixels([plain], "of question 3")


def test_text_that_expands_is_refused():
    text = b"tEXt\x00\x00" + zlib.compress(bytes(2**27))
    with pytest.raises(InputError, match="of question 3"):
        read_picture(png_with(chunk(b"zTXt", text)), "of question 3")


@pytest.mark.filterwarnings("ignore")  # Pillow's, of broken tags
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "TGA", "JPEG2000"])
def test_broken_files_are_read_or_named(file_format):
    data = encode(picture(60, 40), file_format)
    generator = np.random.default_rng(0)
    for i in range(60):
        broken = bytearray(data[: generator.integers(1, len(data))] if i % 2 else data)
        for place in generator.integers(0, min(len(broken), 200), 1 + i % 5):
            broken[place] = generator.integers(0, 256)
        try:
            assert read_picture(bytes(broken), "of question 3", as_displayed=True).mode == "RGB"
        except InputError as error:
            assert str(error).startswith("cannot read the image of question 3: ")
            assert "\n" not in str(error) and "object at" not in str(error)


def test_only_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    for path, cause in (
        (tmp_path / "pipe.png", "not a file"),
        (tmp_path / "link.png", "not a file"),
        ("/dev/zero", "not a file"),
        (tmp_path, "a folder"),
        ("", "a folder"),
        (tmp_path / "none.png", "No such file"),
        (tmp_path / ("x" * 300), "name too long"),
        ("a\0b", "null"),
    ):
        errors = []

        def attempt(path=path, errors=errors):
            try:
                load_image(path)
            except InputError as error:
                errors.append(str(error))

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), path
        assert errors and cause in errors[0] and errors[0].count("\n") == 0, (path, errors)


def test_long_text_is_not_repeated():
    with pytest.raises(InputError) as error:
        load_image(base64.b64encode(encode(picture())).decode())
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("kind", ["data:image/png;base64", "DATA:;charset=x;BASE64", "data:"])
def test_a_data_uri_is_a_picture(kind):
    data = encode(picture())
    text = base64.b64encode(data).decode().rstrip("=")
    url_alphabet = base64.urlsafe_b64encode(data).decode()
    assert "-" in url_alphabet and "_" in url_alphabet
    for padded in (url_alphabet, url_alphabet.rstrip("=")):
        assert load_image(f"data:image/png;base64,{padded}").tobytes() == picture().tobytes()
    if kind == "data:":
        text = "".join(f"%{byte:02x}" for byte in data)
    assert load_image(f"{kind},{text}").tobytes() == picture().tobytes()
    assert load_image(f"{kind},{text[:40]}\n {text[40:]}" if kind != "data:" else f"{kind},{text}").size == (200, 150)


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("data:image/png;base64,s3cret!!", "not base64"),
        ("data:image/png;base64;s3cret", "no comma"),
        ("data:image/png;base64,s3cretAA", "not a picture"),
        ("data:,s3cret", "not a picture"),
        ("data:image/png;base64," + "s3cretAA" * 2**23, "more than 32 MB"),
        ("data:image/png;base64," + "s3cretAA" * 2**23 * 3, "more than 32 MB"),
    ],
)
def test_a_data_uri_that_cannot_be_read_is_never_repeated(uri, cause):
    with pytest.raises(InputError, match=cause) as error:
        load_image(uri)
    assert str(error.value).startswith("cannot read the image of a data: URI: ")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("text", ["?", "aGVsbG8=", base64.b64encode(encode(picture())[:300])])
def test_base64_that_holds_no_picture_is_bad_input(text):
    with pytest.raises(InputError, match="cannot read the base64 image"):
        load_image_from_base64(text)

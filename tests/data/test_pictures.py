import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnkit.data import RESIZE_RULES
from cnnkit.data import PictureError
from cnnkit.data import decode
from cnnkit.data import pictures
from cnnkit.errors import DataError
from cnnkit.errors import UsageError
from tests.data.folders import encoded
from tests.data.folders import picture


def pixels(content, size=(12, 20), channels=3, resize="squash"):
    return decode(content, size, channels, resize)


def png(head, rows):
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def bomb():
    """A PNG whose head promises 60,000 x 60,000 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return png(head, bytes(10))


def animation(format):
    frames = [picture(i) for i in range(3)]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:])


NOISE = encoded(picture(0, (64, 64)))
JPEG = encoded(picture(0, (64, 64)), "JPEG")

BAD = {
    "empty": (b"", "empty"),
    "text": (b"hello", "not-a-picture"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not-a-picture"),
    "truncated png": (NOISE[: len(NOISE) // 2], "truncated"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "truncated"),
    "damaged png": (NOISE[:600] + bytes(400) + NOISE[1000:], "corrupt"),
    "damaged head": (NOISE[:8] + bytes(30) + NOISE[38:], "corrupt"),
    "bomb": (bomb(), "too-large"),
    "gif": (animation("GIF"), "animated"),
    "webp": (animation("WEBP"), "animated"),
    "apng": (animation("PNG"), "animated"),
    "tiff": (animation("TIFF"), "animated"),
    "float": (encoded(Image.new("F", (4, 4)), "TIFF"), "unsupported"),
    "deep": (encoded(Image.new("I", (4, 4), 70_000), "TIFF"), "unsupported"),
}


@pytest.mark.parametrize(("content", "code"), BAD.values(), ids=BAD)
def test_bad_picture_is_refused_with_a_reason(content, code):
    with pytest.raises(PictureError) as caught:
        pixels(content)
    assert caught.value.code == code
    assert caught.value.reason
    assert isinstance(caught.value, DataError)


def test_pixels_over_the_limit_are_refused_before_they_are_decoded():
    white = encoded(Image.new("1", (9500, 9500), 1))  # 11 kB in the file, above Pillow's warning
    with pytest.raises(PictureError, match="9500 x 9500 pixels, the limit is 89,478,485"):
        pixels(white)


def test_error_names_the_file_on_one_line(tmp_path):
    path = tmp_path / "a\nb.png"
    path.write_bytes(b"")
    with pytest.raises(PictureError, match=r"a\\nb\.png"):
        decode(path, (4, 4), 3, "squash")


def test_pipe_and_missing_file_are_refused(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "missing.png"):
        with pytest.raises(PictureError, match=f"unreadable.*{name}"):
            decode(tmp_path / name, (4, 4), 3, "squash")


def test_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(pictures.MAX_BYTES + 1)
    with pytest.raises(PictureError, match="too-large"):
        decode(path, (4, 4), 3, "squash")


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_file_gives_its_own_pixels(format):
    image = picture(3)
    np.testing.assert_array_equal(pixels(encoded(image, format)), np.asarray(image))


def test_path_and_content_give_the_same(tmp_path):
    path = tmp_path / "ä.png"
    path.write_bytes(NOISE)
    np.testing.assert_array_equal(pixels(path), pixels(NOISE))
    np.testing.assert_array_equal(pixels(str(path)), pixels(NOISE))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_on_white(mode):
    image = picture(5, mode=mode)
    *colour, alpha = (np.asarray(band, np.float64) for band in image.split())
    expected = np.stack([255 + (band - 255) * alpha / 255 for band in colour], -1)
    got = pixels(encoded(image), channels=len(colour)).astype(float)
    assert np.abs(got - expected).max() <= 1


def test_transparent_palette_entry_becomes_white():
    image = Image.new("P", (20, 12), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 10, 12))
    got = pixels(encoded(image, transparency=0))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[0, 19].tolist() == [0, 0, 255]


def test_sixteen_bits_become_the_high_byte():
    values = np.arange(0, 65536, 273, np.uint16).reshape(1, -1)[:, :240]
    image = Image.fromarray(values)
    for content in (encoded(image), encoded(image, "TIFF"), encoded(image, "PPM")):
        got = pixels(content, (1, 240), 1)
        np.testing.assert_array_equal(got[..., 0], values >> 8)


def test_cmyk_becomes_rgb():
    ink = Image.new("CMYK", (20, 12), (0, 255, 255, 0))
    for content in (encoded(ink, "TIFF"), encoded(ink, "JPEG", quality=95)):
        assert np.abs(pixels(content).astype(int) - (255, 0, 0)).max() <= 3


def test_exif_rotation_is_applied():
    image = picture(7, (20, 12))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    got = pixels(encoded(image, exif=exif), (20, 12))
    np.testing.assert_array_equal(got, np.rot90(np.asarray(image), -1))


def test_one_channel_is_luma_and_three_repeat_grey():
    assert pixels(encoded(Image.new("RGB", (4, 4), (255, 0, 0))), (4, 4), 1).ravel()[0] == 76
    grey = picture(1, mode="L")
    got = pixels(encoded(grey))
    np.testing.assert_array_equal(got, np.repeat(np.asarray(grey)[..., None], 3, -1))


def test_photograph_with_a_preview_is_no_animation():
    frames = [picture(i, (32, 32)) for i in range(2)]
    content = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert pixels(content, (32, 32)).shape == (32, 32, 3)
    assert pictures.inspect(content, ".jpg").remarks == {}


def red_and_blue():
    """20 wide, 10 high; the left quarter and the right quarter are blue, the middle is red."""
    image = Image.new("RGB", (20, 10), "blue")
    image.paste((255, 0, 0), (5, 0, 15, 10))
    return encoded(image)


def test_squash_shows_everything_and_fills():
    got = pixels(red_and_blue(), (8, 8), resize="squash")
    assert got[0, 0].tolist() == got[7, 7].tolist() == [0, 0, 255]
    assert got[4, 4].tolist() == [255, 0, 0]


def test_crop_shows_the_middle():
    got = pixels(red_and_blue(), (10, 10), resize="crop")
    assert (got == (255, 0, 0)).all()


def test_letterbox_shows_everything_on_white():
    got = pixels(red_and_blue(), (20, 20), resize="letterbox")
    assert (got[:5] == 255).all()
    assert (got[15:] == 255).all()
    np.testing.assert_array_equal(got[5:15], pixels(red_and_blue(), (10, 20)))


@pytest.mark.parametrize("resize", RESIZE_RULES)
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (7, 5)])
def test_every_rule_takes_every_shape_and_keeps_one_colour(resize, size):
    got = pixels(encoded(Image.new("RGB", size, "white")), (16, 24), resize=resize)
    assert got.shape == (16, 24, 3)
    assert got.dtype == np.uint8
    assert (got == 255).all()


def test_unknown_rule_has_the_closest_names():
    with pytest.raises(UsageError, match="letterbox"):
        pixels(NOISE, resize="leterbox")


def test_inspect_flags_what_it_converts():
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = pictures.inspect(encoded(picture(0, mode="RGBA"), exif=exif), ".png")
    assert (facts.width, facts.height, facts.mode) == (12, 20, "RGBA")
    assert facts.flags == ("rotated", "transparent")
    assert facts.remarks == {}
    deep = encoded(Image.fromarray(np.zeros((3, 4), np.uint16)))
    assert list(pictures.inspect(deep, ".png").remarks) == ["16-bit"]
    ink = encoded(picture(0, mode="CMYK"), "JPEG")
    assert list(pictures.inspect(ink, ".JPG").remarks) == ["cmyk"]
    assert list(pictures.inspect(NOISE, ".jpg").remarks) == ["wrong-name"]
    assert pictures.inspect(NOISE, "").remarks == {}


def test_sixteen_bit_colour_is_flagged():
    head = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + bytes(range(12))
    content = png(head, row)
    assert list(pictures.inspect(content, ".png").remarks) == ["16-bit"]
    assert pixels(content, (1, 2)).ravel().tolist() == [0, 2, 4, 6, 8, 10]


def test_text_called_png_is_wrongly_named():
    with pytest.raises(PictureError, match="wrong-name"):
        pictures.inspect(b"hello", ".png")

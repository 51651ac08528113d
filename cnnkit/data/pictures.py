"""Reading one picture, safely: the same decoder for checking, training, evaluation and use."""

import contextlib
import io
import itertools
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from PIL import ImageOps
from PIL import UnidentifiedImageError

from cnnkit import registry
from cnnkit.data import near
from cnnkit.data.manifest import printable
from cnnkit.errors import DataError

# Pillow knows many more. Some of those start programs (EPS) or are seldom tested.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_BYTES = 256 * 2**20
MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a GiB at 3 bytes a pixel.

RESIZE_RULES = {
    "squash": "The whole picture is scaled to height x width (bilinear, antialiased); its aspect "
    "ratio is not kept.",
    "crop": "The largest centred part with the aspect ratio of height x width is cut out and "
    "scaled to height x width (bilinear, antialiased).",
    "letterbox": "The whole picture is scaled to fit inside height x width (bilinear, "
    "antialiased, aspect ratio kept), centred, and the rest is white.",
}

_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
# Pictures that wait in memory; and in a task, since tasks cost as much as tiny pictures.
_AT_ONCE, _TASK = 256, 8
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")


Source = TypeVar("Source")
Result = TypeVar("Result")


class PictureError(DataError):
    """A picture that cannot be used.

    Args:
        code: One word for it, as in `Problem.code`.
        reason: Why, for people.
        where: Path, if there is one.
    """

    def __init__(self, code: str, reason: str, where: object = "") -> None:
        super().__init__(f"Unusable picture ({code})", where=where, received=reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class Facts:
    """What `inspect` learns about a usable picture.

    Args:
        width: In pixels, upright.
        height: In pixels, upright.
        mode: Pillow's mode of the file.
        flags: `rotated` and `transparent`.
        remarks: Problems that do not exclude it, code to reason.
        phash: Its perceptual hash, where that was asked for.
    """

    width: int
    height: int
    mode: str
    flags: tuple[str, ...]
    remarks: dict[str, str]
    phash: str = ""


def decode(
    source: str | Path | bytes, image_size: tuple[int, int], channels: int, resize: str
) -> np.ndarray:
    """Returns a picture as raw pixels, upright, of the size and channels that a model takes.

    EXIF rotation is applied, transparency is composited on white, 16 bits become 8 (the high
    byte), CMYK and palettes become RGB, and one channel is the luma of ITU-R 601-2.

    Args:
        source: Path or content of a picture file.
        image_size: `(height, width)` in pixels.
        channels: 1 or 3.
        resize: One of `RESIZE_RULES`.

    Returns:
        uint8, `(height, width, channels)`.

    Raises:
        PictureError: If it is no picture, damaged, animated or too large.
        UsageError: If the rule is unknown.
    """
    registry.known("resize rule", resize, RESIZE_RULES)
    return next(decode_all([source], image_size, channels, resize))


def decode_all(
    sources: Iterable[str | Path | bytes], image_size: tuple[int, int], channels: int, resize: str
) -> Iterator[np.ndarray]:
    """Yields what `decode` returns, for many pictures."""

    def one(source: str | Path | bytes) -> np.ndarray:
        try:
            content = source if isinstance(source, bytes) else read(Path(source))
            return decode_here(content, image_size, channels, resize)
        except PictureError as error:
            where = "" if isinstance(source, bytes) else printable(source)
            raise PictureError(error.code, error.reason, where) from None

    return in_parallel(one, sources)


def decode_here(
    content: bytes,
    image_size: tuple[int, int],
    channels: int,
    resize: str,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Returns what `decode` does, in the thread of the caller, who keeps Pillow `quiet`."""
    return fit(_load(content, max_pixels)[1], image_size, channels, resize)


def in_parallel(
    function: Callable[[Source], Result], sources: Iterable[Source]
) -> Iterator[Result]:
    """Yields `function` of each, in order: several at a time, few of which wait in memory."""
    rest = iter(sources)
    with ThreadPoolExecutor() as pool:
        while some := list(itertools.islice(rest, _AT_ONCE)):
            tasks = [some[k : k + _TASK] for k in range(0, len(some), _TASK)]
            with quiet():
                results = list(pool.map(lambda task: list(map(function, task)), tasks))
            yield from itertools.chain.from_iterable(results)


def fit(image: Image.Image, image_size: tuple[int, int], channels: int, resize: str) -> np.ndarray:
    """Returns an `L` or `RGB` image as uint8 pixels of the wanted size and channels."""
    height, width = image_size
    image = image.convert("L" if channels == 1 else "RGB")
    linear = Image.Resampling.BILINEAR
    if resize == "squash":
        image = image.resize((width, height), linear)
    elif resize == "crop":
        scale = min(image.width / width, image.height / height)
        left = (image.width - width * scale) / 2
        top = (image.height - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
        image = image.resize((width, height), linear, box=box)
    else:
        scale = min(width / image.width, height / image.height)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        ground = Image.new(image.mode, (width, height), "white")
        corner = ((width - inner[0]) // 2, (height - inner[1]) // 2)
        ground.paste(image.resize(inner, linear), corner)
        image = ground
    return np.asarray(image, np.uint8).reshape(height, width, channels)


def inspect(content: bytes, suffix: str, *, hashed: bool = False) -> Facts:
    """Decodes a picture to the last byte and says what it is.

    Args:
        content: The file.
        suffix: Of its name, such as `.png`.
        hashed: Whether its perceptual hash is wanted.

    Raises:
        PictureError: If it cannot be used.
    """
    named = Image.registered_extensions().get(suffix.lower())
    try:
        image, upright, deep = _load(content)
    except PictureError as error:
        if error.code == "not-a-picture" and named in FORMATS:
            reason = f"named {suffix}, but the content is no picture"
            raise PictureError("wrong-name", reason) from None
        raise
    remarks = {}
    found = "JPEG" if image.format == "MPO" else image.format
    if named and named not in (found, image.format):
        remarks["wrong-name"] = f"named {suffix}, but the content is {found}"
    if image.mode == "CMYK":
        remarks["cmyk"] = "CMYK colours, converted to RGB without a colour profile"
    if deep:
        remarks["16-bit"] = "16 bits a channel, of which the higher 8 are used"
    flags = {
        "rotated": image.getexif().get(0x0112, 1) != 1,
        "transparent": image.has_transparency_data,
    }
    return Facts(
        *upright.size,
        image.mode,
        tuple(flag for flag, on in flags.items() if on),
        remarks,
        near.perceptual_hash(upright) if hashed else "",
    )


def of_pixels(pixels: np.ndarray) -> Image.Image:
    """Returns uint8 pixels `(height, width, 1 or 3)` as an image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def is_grey(mode: str) -> bool:
    """Returns whether Pillow's `mode` has no colours."""
    return mode in _GREY


def read(path: Path) -> bytes:
    """Returns the content of a regular file of at most `MAX_BYTES`.

    Raises:
        PictureError: If it cannot be read, is no regular file, empty or too large.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():  # opening a pipe would wait for ever
            raise PictureError("unreadable", "not a regular file")
        if size > MAX_BYTES:
            raise PictureError("too-large", f"{size:,} bytes, the limit is {MAX_BYTES:,}")
        content = path.read_bytes()
    except OSError as error:
        raise PictureError("unreadable", error.strerror or str(error)) from None
    return content


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps Pillow's remarks on odd files from the screen. Not for use inside threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _load(content: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, Image.Image, bool]:
    """Returns the picture as in the file, it upright on white, and whether it has 16 bits."""
    if not content:
        raise PictureError("empty", "0 bytes")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        pixels = image.width * image.height
        if pixels > max_pixels:
            reason = f"{image.width} x {image.height} pixels, the limit is {max_pixels:,} in all"
            raise PictureError("too-large", reason)
        # An MPO is a JPEG photograph with a preview behind it.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise PictureError("animated", f"{getattr(image, 'n_frames', 'several')} frames")
        deep = image.mode.startswith("I") or ";16" in str(image.tile)
        image.load()
        return image, _upright(image), deep
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError("too-large", printable(error)) from None
    except UnidentifiedImageError:
        if content.startswith(_SIGNATURES):
            raise PictureError("corrupt", "the head of the file is damaged") from None
        raise PictureError("not-a-picture", f"none of {', '.join(FORMATS)}") from None
    except Exception as error:  # the decoders raise whatever a hostile file leads them to
        code = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise PictureError(code, printable(error) or type(error).__name__) from None


def _upright(image: Image.Image) -> Image.Image:
    """Returns the picture in mode `L` or `RGB`, rotated as EXIF says, on white."""
    mode = "L" if is_grey(image.mode) else "RGB"
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise PictureError("unsupported", "floating-point pixels have no fixed range")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise PictureError("unsupported", "more than 16 bits a pixel have no fixed range")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        image = ground
    return image.convert(mode)

"""Encoded pictures to pixels in TensorFlow operations: `cnnkit.data.decode` inside a SavedModel."""

from __future__ import annotations

from typing import Any

from cnnkit.types import Tensor

# Luma of ITU-R 601-2 in 16 bits after the point, as Pillow computes it.
_LUMA = (19595, 38470, 7471)


def decode(content: Tensor, image_size: tuple[int, int], channels: int, resize: str) -> Tensor:
    """Returns a JPEG or PNG file as raw pixels of the size and channels that a model takes.

    Colours, transparency, luma, 16 bits and the resize rules are those of `cnnkit.data.decode`.
    Differs: EXIF rotation is not applied, since no operation of TensorFlow reads it, and the one
    colour that a PNG without a palette may declare transparent is kept. Where a picture is resized,
    few pixels are rounded to the other side: by 1, or by 2 where that happens along rows and along
    columns. Of an animation, the first frame is taken.

    Args:
        content: The file, a scalar string.
        image_size: `(height, width)` in pixels.
        channels: 1 or 3.
        resize: One of `cnnkit.data.RESIZE_RULES`.

    Returns:
        float32 of whole numbers 0-255, `(height, width, channels)`.
    """
    import tensorflow as tf

    # Else TensorFlow takes the quick inverse transform, and half of all pixels are others.
    pixels = tf.cond(
        tf.io.is_jpeg(content),
        lambda: tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(content, expand_animations=False),
    )
    pixels.set_shape((None, None, None))  # as many channels as the file has
    transparent = tf.shape(pixels)[-1] % 2 == 0
    pixels = tf.cond(transparent, lambda: _on_white(pixels), lambda: pixels)
    if channels == 1:
        pixels = _luma(pixels)
    pixels = tf.cast(pixels, tf.float32) + tf.zeros(channels)  # grey becomes RGB
    fitted = _RULES[resize](pixels, image_size)
    return tf.ensure_shape(fitted, (*image_size, channels))


def _on_white(pixels: Tensor) -> Tensor:
    """Composites as Pillow does, in the same integers."""
    import tensorflow as tf

    values = tf.cast(pixels, tf.int32)
    colours, alpha = values[..., :-1], values[..., -1:]
    sums = 128 * (colours * alpha + 255 * (255 - alpha)) + (128 << 7)
    shift = tf.bitwise.right_shift
    return tf.cast(shift(shift(shift(sums, 8) + sums, 8), 7), tf.uint8)


def _luma(pixels: Tensor) -> Tensor:
    import tensorflow as tf

    weighed = tf.cast(pixels, tf.int32) * tf.constant(_LUMA)  # of grey, the weights sum to one
    total = tf.reduce_sum(weighed, -1, keepdims=True) + (1 << 15)
    return tf.bitwise.right_shift(total, 16)


def _squash(pixels: Tensor, image_size: tuple[int, int]) -> Tensor:
    return _scaled(pixels, image_size, (0.0, 0.0), _size(pixels))


def _crop(pixels: Tensor, image_size: tuple[int, int]) -> Tensor:
    import tensorflow as tf

    size, wanted = _size(pixels), tf.constant(image_size, tf.float64)
    part = wanted * tf.reduce_min(size / wanted)
    return _scaled(pixels, image_size, (size - part) / 2, part)


def _letterbox(pixels: Tensor, image_size: tuple[int, int]) -> Tensor:
    import tensorflow as tf

    size, wanted = _size(pixels), tf.constant(image_size, tf.float64)
    inner = tf.maximum(1, tf.cast(tf.round(size * tf.reduce_min(wanted / size)), tf.int32))
    before = (tf.constant(image_size) - inner) // 2
    after = tf.constant(image_size) - inner - before
    borders = tf.pad(tf.stack([before, after], 1), [[0, 1], [0, 0]])  # none between channels
    scaled = _scaled(pixels, inner, (0.0, 0.0), size)
    return tf.pad(scaled, borders, constant_values=255.0)


_RULES = {"squash": _squash, "crop": _crop, "letterbox": _letterbox}


def _size(pixels: Tensor) -> Tensor:
    import tensorflow as tf

    return tf.cast(tf.shape(pixels)[:2], tf.float64)


def _scaled(pixels: Tensor, to: Any, corner: Any, part: Tensor) -> Tensor:
    """Scales a part of the picture, along rows and then along columns, rounding after each."""
    import tensorflow as tf

    to = tf.convert_to_tensor(to, tf.int32)
    scale = tf.cast(to, tf.float64) / part
    shift = tf.cast(-tf.cast(corner, tf.float64) * scale, tf.float32)
    scale = tf.cast(scale, tf.float32)
    height = tf.shape(pixels)[0]
    for size, times, move in (
        (tf.stack([height, to[1]]), tf.stack([1.0, scale[1]]), tf.stack([0.0, shift[1]])),
        (to, tf.stack([scale[0], 1.0]), tf.stack([shift[0], 0.0])),
    ):
        pixels = tf.raw_ops.ScaleAndTranslate(
            images=pixels[None],
            size=size,
            scale=times,
            translation=move,
            kernel_type="triangle",
            antialias=True,
        )[0]
        pixels = tf.floor(pixels + 0.5)
    return pixels

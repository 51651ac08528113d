"""Writing TFRecord files that `cnnkit` and other programs on TensorFlow read."""

import io
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnkit import checks
from cnnkit import files
from cnnkit.data import pictures
from cnnkit.data import tfrecord
from cnnkit.data.dataset import Dataset
from cnnkit.data.dataset import contents
from cnnkit.data.dataset import load
from cnnkit.data.manifest import SPLITS
from cnnkit.data.manifest import Item
from cnnkit.data.manifest import Manifest
from cnnkit.errors import UsageError


def write_tfrecords(data: Manifest | Dataset, out: str | Path, shards: int = 1) -> list[Path]:
    """Writes pictures as TFRecord files `SPLIT-00000-of-00004.tfrecord` in a new folder.

    `check(f"{out}/*.tfrecord")` finds the same pictures, labels and splits in them. The features
    are `image/encoded`, `image/format`, `image/height`, `image/width`, `image/filename`,
    `image/class/label` and `image/class/text`.

    Args:
        data: A manifest, whose files are written as they are, or a dataset, whose pixels are
            written as PNG; so are those of an array source.
        out: A folder that is not there, or empty.
        shards: Files for each split.

    Returns:
        The files.

    Raises:
        UsageError: If there is something at `out`.
        DataError: If a picture has become unreadable.
    """
    checks.integer("write_tfrecords", "shards", shards, 1)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("There is something already", where=out, expected="a new folder")
    if isinstance(data, Manifest) and data.shape:
        data = load(data)
    names = []
    with files.replacing(out) as folder:
        folder.mkdir()
        for split in SPLITS:
            n = len(data.select(split) if isinstance(data, Manifest) else data.ids(split))
            made = [f"{split}-{k:05d}-of-{shards:05d}.tfrecord" for k in range(shards if n else 0)]
            _write([folder / name for name in made], _examples(data, split))
            names += made
    return [out / name for name in names]


def _examples(data: Manifest | Dataset, split: str) -> Iterator[dict[str, Any]]:
    """Yields the features of each picture of a split, in an order that mixes the classes."""
    manifest = data if isinstance(data, Manifest) else data.manifest
    items = manifest.select(split)
    order = np.random.default_rng(manifest.seed).permutation(len(items)).tolist()
    if isinstance(data, Dataset):
        x, _ = data.arrays(split)
        stream: Iterator[Path | bytes] = (_png(x[k]) for k in order)
    elif manifest.kind == "tfrecord":  # which is read from its first record to its last
        order = list(range(len(items)))
        stream = contents(manifest, items)
    else:
        stream = contents(manifest, [items[k] for k in order])
    for k, content in zip(order, stream, strict=True):
        yield _example(items[k], content, manifest.classes)


def _example(item: Item, source: Path | bytes, classes: list[str]) -> dict[str, Any]:
    content = source if isinstance(source, bytes) else pictures.read(source)
    with pictures.quiet(), Image.open(io.BytesIO(content), formats=pictures.FORMATS) as image:
        form, (width, height) = image.format, image.size
    return {
        tfrecord.ENCODED: content,
        "image/format": (form or "").lower(),
        "image/height": height,
        "image/width": width,
        tfrecord.FILENAME: item.id,
        tfrecord.LABEL: item.label,
        tfrecord.TEXT: classes[item.label],
    }


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    pictures.of_pixels(pixels).save(file, "PNG")
    return file.getvalue()


def _write(paths: list[Path], examples: Iterable[dict[str, Any]]) -> None:
    """Deals examples out to files in turn."""
    import tensorflow as tf

    writers = [tf.io.TFRecordWriter(str(path)) for path in paths]
    try:
        for k, example in enumerate(examples):
            features = {name: _feature(value) for name, value in example.items()}
            made = tf.train.Example(features=tf.train.Features(feature=features))
            writers[k % len(writers)].write(made.SerializeToString())
    finally:
        for writer in writers:
            writer.close()


def _feature(value: bytes | str | int) -> Any:
    import tensorflow as tf

    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    content = value.encode() if isinstance(value, str) else value
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))

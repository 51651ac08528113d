"""Pictures and folders that the tests of this package make."""

import io

import numpy as np
from PIL import Image


def picture(seed, size=(20, 12), mode="RGB"):
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def class_folders(root, n=6, classes=("cat", "dog"), first=0, **options):
    """Makes `n` pictures for each class; no two are equal for different `first`."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            image = picture((first, label, i), **options)
            (root / name / f"{i}.png").write_bytes(encoded(image))
    return root

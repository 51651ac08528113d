"""Folders of pictures as people have them: of every mode, with odd names, some of them broken."""

import io

import numpy as np
from PIL import Image

MODES = ("RGB", "RGBA", "LA", "L", "CMYK", "P", "I;16")


def folder(root, classes, modes=("RGB",)):
    """Makes `classes[name]` pictures for each class, a bright stripe telling which one it is."""
    for label, (name, n) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(n):
            mode = modes[i % len(modes)]
            suffix = "jpg" if mode == "CMYK" else "png"
            place = root / name / f"{mode.replace(';', '')} ü {i}.{suffix}"
            picture(label, i, mode).save(place)
    return root


def picture(label, seed, mode="RGB", size=24):
    noise = np.random.default_rng((label, seed)).integers(0, 60, (size, size), np.uint8)
    noise[:, 8 * label : 8 * label + 8] += 180
    grey = Image.fromarray(noise)
    if mode == "I;16":
        return Image.fromarray(noise.astype(np.uint16) * 257)
    if mode in ("RGBA", "LA"):
        grey = grey.convert(mode)
        grey.putalpha(230)
        return grey
    return grey.convert("RGB").convert(mode) if mode in ("P", "CMYK") else grey.convert(mode)


def truncated():
    file = io.BytesIO()
    picture(0, 99).save(file, "PNG")
    return file.getvalue()[:300]


def moving(path):
    picture(0, 97).save(path, save_all=True, append_images=[picture(1, 98)])

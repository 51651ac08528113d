"""Classifies pictures with MediaPipe's ImageClassifier, as an app on a phone does.

python -I mediapipe_probe.py FILE x.npy y.npy

Writes the scores for the RGB pictures in `x.npy`, one column for each index, and prints a line of
JSON: the version of MediaPipe, the names of the classes by index, and the index that comes first
for each picture. A script of its own, which needs MediaPipe alone: it may be another Python that
runs it, since MediaPipe and TensorFlow Model Optimization ask for different versions of absl.
"""

import importlib.metadata
import json
import os
import sys

# MediaPipe imports TensorFlow where that is installed, for some seconds, to document itself.
ABSENT = ("tensorflow", "jax")


def main(file: str, x_path: str, y_path: str) -> None:
    """Writes the scores for the rows of `x_path` to `y_path`."""
    for name in ABSENT:
        sys.modules[name] = None  # type: ignore[assignment]  # makes `import name` fail

    import mediapipe
    import numpy as np
    from mediapipe.tasks.python import vision

    scores, first = [], []
    names: dict[int, str] = {}
    with vision.ImageClassifier.create_from_model_path(file) as classifier:
        for row in np.load(x_path, allow_pickle=False):
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=row)
            found = classifier.classify(image).classifications[0].categories
            names |= {category.index: category.category_name for category in found}
            first.append(found[0].index)
            scores.append([c.score for c in sorted(found, key=lambda c: c.index)])
    np.save(y_path, np.array(scores, np.float32))
    told = {
        "version": importlib.metadata.version("mediapipe"),
        "labels": [names[index] for index in sorted(names)],
        "first": first,
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        sys.stderr.write(" ".join(f"{type(error).__name__}: {error}".split()))
        sys.stderr.flush()
        os._exit(1)  # else MediaPipe complains at the end that it cannot be closed

"""What is asked of artifacts: what a format may differ from its model, and what the user wants."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """What a format may differ from the Keras model.

    Attributes:
        max_abs: Largest difference of a probability, or None where no bound holds.
        agreement: Least fraction of pictures with the same likeliest class.
        layer_db: Signal to noise below which a layer counts as the one where a file departs.
        reason: Where the numbers come from.
    """

    max_abs: float | None
    agreement: float
    layer_db: float
    reason: str

    def __str__(self) -> str:
        """Says what is asked, without the reason."""
        asked = [] if self.max_abs is None else [f"within {self.max_abs:g}"]
        asked += [f"agrees on {self.agreement:.0%}"] if self.agreement else []
        return ", ".join(asked)


_EXACT = Limit(
    1e-4, 0.0, 60.0, "the same float32 arithmetic in another order: only roundings of 2^-24 differ"
)
# A picture on which two classes are nearly equal may change sides: no bound on the difference.
_INTEGER = Limit(None, 0.95, 10.0, "int8 has 256 levels: pictures near a border change sides")
LIMITS: dict[str, Limit] = {
    "tflite": _EXACT,
    "onnx": _EXACT,
    "savedmodel": _EXACT,
    "tflite-fp16": Limit(
        0.02, 0.99, 40.0, "weights keep 11 bits, a relative error of at most 2^-11 each"
    ),
    "tflite-dynamic": _INTEGER,
    "tflite-int8": _INTEGER,
    "tflite-int16x8": Limit(
        None, 0.98, 15.0, "the weights of int8, while activations keep 15 bits"
    ),
    "tflite-int4": Limit(None, 0.9, 5.0, "16 levels, for weights that were not trained for them"),
    "tflite-mediapipe": _INTEGER,
    "micro": _INTEGER,
    "onnx-int8": _INTEGER,
}


@dataclass(frozen=True)
class Gates:
    """What the user asks of every artifact.

    Attributes:
        max_drop: Largest loss of accuracy against the Keras model, as a fraction.
        max_size: Largest size in bytes, or None.
        dry_run: Whether the model has learned nothing: classes that are all as likely change places
            by rounding, and agreement is asked of no file.
        max_arena: Largest arena in TFLite Micro in bytes, or None.
    """

    max_drop: float = 0.01
    max_size: int | None = None
    dry_run: bool = False
    max_arena: int | None = None

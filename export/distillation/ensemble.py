"""Several classifiers as one, whose probabilities are their mean."""

from collections.abc import Sequence

import keras

from cnnkit.errors import UsageError
from export.wrap import as_classifier


def ensemble(models: Sequence[keras.Model]) -> keras.Model:
    """Returns one plain Keras model in which `models` are run side by side.

    Args:
        models: Functional or sequential classifiers of raw pixels, of one input size and with the
            same classes, ending in logits or probabilities. They are copied.

    Raises:
        UsageError: If there is none, or they do not fit together.
    """
    members = [as_classifier(model, pixel_range="0-255")[0] for model in models]
    shapes = [(member.input_shape[1:], member.output_shape[1:]) for member in members]
    if len(set(shapes)) != 1:
        raise UsageError(
            "An ensemble needs members of one input size and the same classes",
            expected="(input, output) equal in all",
            received=shapes,
        )
    image = keras.Input(members[0].input_shape[1:], name="image")
    outputs = []
    for number, member in enumerate(members, 1):
        copy = keras.models.clone_model(member)
        copy.set_weights(member.get_weights())
        outputs.append(keras.Model(copy.inputs[0], copy.outputs[0], name=f"member_{number}")(image))
    mean = keras.layers.Average(name="mean")(outputs) if len(outputs) > 1 else outputs[0]
    end = keras.layers.Activation("linear", dtype="float32", name="probabilities")
    return keras.Model(image, end(mean), name="ensemble")

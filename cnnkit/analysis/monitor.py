"""Whether the units of a network are alive: dead ReLUs, saturation, scales that vanish or explode.

Thresholds are rules of thumb: they are where the words of `diagnosis` begin, not where harm does.

Reference:
    Wei 2017, "Analyzing Convolutional Neural Networks", sections 7.1, 7.2 and 8.1 to 8.3. Differs:
    a unit is called dead if it is zero on all of the pictures that are given, not on all there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cnnkit.analysis.functional import graph_of
from cnnkit.analysis.functional import nodes
from cnnkit.errors import UsageError
from cnnkit.onednn import unit_strides

# Pictures that are computed at once, and how many places they may have in all: a tape remembers
# their activations.
_BATCH, _PLACES = 256, 16 * 224**2
# Where the gradient of a sigmoid is below 0.7 % of its inputs' (figure 8.2): inputs beyond 5.
_SIGMOID = 1 / (1 + math.exp(-5))
_TANH = 2 * _SIGMOID - 1  # tanh(x) = 2 sigmoid(2x) - 1
# Shares of units or outputs, and ratios between layers, of which there are words.
_MANY = 0.25
_FAR = 1e4
# At a learning rate of 0.01, a step is as large as the weights.
_STEEP = 100.0


@dataclass(frozen=True)
class Health:
    """How one call of one layer fares on some pictures.

    Attributes:
        name: Name of the layer; inside a nested model, `outer/inner`.
        activation: "relu", "sigmoid" or "tanh" if the layer ends with that (a ReLU that is cut off
            above counts as one), else "".
        units: Channels of the output.
        scale: Root of the mean square of the outputs.
        dead: Share of the units of a ReLU that are zero everywhere; None of other layers.
        saturated: Share of the outputs of a sigmoid or tanh that are as good as at an end of its
            range, where hardly any gradient passes; None of other layers.
        weights: Norm of the kernels; None of layers without.
        gradient: Norm of the loss's gradient with respect to them; None if not measured.
    """

    name: str
    activation: str
    units: int
    scale: float
    dead: float | None = None
    saturated: float | None = None
    weights: float | None = None
    gradient: float | None = None

    @property
    def steepness(self) -> float | None:
        """The gradient relative to the weights."""
        if self.gradient is None or not self.weights:
            return None
        return self.gradient / self.weights


def measure(model: keras.Model, x: Any, y: Any = None) -> list[Health]:
    """Returns a row for each layer with a kernel or one of the activations, as it is in inference.

    Args:
        model: Functional or built sequential model with one input.
        x: Pictures, `(n, height, width, channels)`: a few hundred of those it trains on.
        y: Their targets. With them, a compiled model and TensorFlow as Keras' backend, gradients
            are measured too.

    Raises:
        UsageError: If there are no pictures, the model has no layer graph or several inputs, or
            there are targets but no loss.
    """
    graph = graph_of(model)
    if graph is None or len(graph.inputs) != 1:
        raise UsageError(
            "Cannot look into this model",
            where=model.name,
            expected="a functional or built sequential model with one input",
            received=type(model).__name__ if graph is None else f"{len(graph.inputs)} inputs",
        )
    if not len(x):
        raise UsageError("No pictures to look at", where=model.name)
    tallies: dict[str, _Tally] = {}
    for part in _batches(x):
        batch = keras.ops.convert_to_tensor(x[part])
        _run(graph, [keras.ops.cast(batch, graph.inputs[0].dtype)], "", tallies)
    gradients = _gradients(model, x, y) if y is not None else {}
    return [tally.health(name, gradients) for name, tally in tallies.items()]


def diagnosis(rows: Iterable[Health]) -> list[str]:
    """Returns what is wrong, in words, and what could help; nothing if all is well."""
    return list(_diagnosis(list(rows)).values())


def _diagnosis(rows: list[Health]) -> dict[tuple[str, str], str]:
    """Returns by place and kind of trouble what is wrong, in words."""
    found = {}
    for row in rows:
        if row.dead is not None and row.dead >= _MANY:
            found[row.name, "dead"] = (
                f"{row.name}: {round(row.dead * row.units)} of {row.units} units are dead, zero "
                "everywhere on all pictures: a lower learning rate, He's initialization or a leaky "
                "ReLU would help"
            )
        if row.saturated is not None and row.saturated >= _MANY:
            found[row.name, "saturated"] = (
                f"{row.name}: {row.saturated:.0%} of the outputs of its {row.activation} are "
                "saturated: smaller initial weights, batch normalization or a ReLU would help"
            )
        if row.weights == 0:
            found[row.name, "zero"] = (
                f"{row.name}: its weights are all zero: its units cannot become different"
            )
    # A layer that is dead altogether is a matter of its own.
    scales = [(row.name, row.scale) for row in rows if row.dead != 1]
    found |= _drift("activations", scales, forward=True)
    steep = [(row.name, row.steepness) for row in rows if row.steepness is not None]
    found |= _drift("gradients", steep, forward=False)
    for name, value in steep:
        if _STEEP < value < math.inf:
            found[name, "steep"] = (
                f"gradients explode: that of {name} is {value:.2g} times as large as its weights: "
                "a lower learning rate, clipping or batch normalization would help"
            )
    return found


class Monitor(keras.callbacks.Callback):
    """Looks at the units of a network while it trains.

    Args:
        x: Pictures to look at, as for `measure`.
        y: Their targets, for gradients, or None.
        every: Epochs from one look to the next, at least 1.
        tell: Is given what is wrong, in words, if that was not wrong at the look before.
        net: What is looked at; None is the network that is trained, unless that is a wrapper
            without a layer graph.
        start: Whether to look before the first epoch, too. Batch normalization has no statistics
            yet then, so that scales may explode that will not in training.

    Attributes:
        history: Of each look, the epochs trained by then and the rows of `measure`.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="relu")])
        >>> net.compile("sgd", "mse")
        >>> look = Monitor(np.ones((4, 2)))
        >>> _ = net.fit(np.ones((4, 2)), np.ones((4, 3)), epochs=2, verbose=0, callbacks=[look])
        >>> [epoch for epoch, _ in look.history]
        [0, 1, 2]
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        every: int = 1,
        tell: Callable[[str], None] | None = None,
        net: keras.Model | None = None,
        start: bool = True,
    ) -> None:
        super().__init__()
        self.x, self.y, self.every, self.tell, self.net, self.start = x, y, every, tell, net, start
        self.history: list[tuple[int, list[Health]]] = []
        self._said: set[tuple[str, str]] = set()

    def on_train_begin(self, logs: Any = None) -> None:
        if self.start:
            self._look(0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % self.every == 0:
            self._look(epoch + 1)

    def _look(self, epoch: int) -> None:
        rows = measure(self.net or self.model, self.x, self.y)
        self.history.append((epoch, rows))
        said = _diagnosis(rows)
        for trouble, text in said.items():
            if self.tell is not None and trouble not in self._said:
                self.tell(text)
        self._said = set(said)


class _Tally:
    """What is known of a layer after some batches."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.activation = layer, _activation(layer)
        self.squares, self.count, self.saturated = 0.0, 0, 0
        self.alive: Any = False

    def add(self, y: np.ndarray) -> None:
        y = y.reshape(-1, y.shape[-1])
        self.squares += float(np.square(y, dtype=np.float64).sum())
        self.count += y.size
        self.alive = self.alive | (y > 0).any(0)
        if self.activation == "sigmoid":
            self.saturated += int((np.abs(y - 0.5) > _SIGMOID - 0.5).sum())
        if self.activation == "tanh":
            self.saturated += int((np.abs(y) > _TANH).sum())

    def health(self, name: str, gradients: dict[int, np.ndarray]) -> Health:
        kernels = _kernels(self.layer)
        steps = [gradients[id(kernel)] for kernel in kernels if id(kernel) in gradients]
        squashed = self.activation in ("sigmoid", "tanh")
        return Health(
            name=name,
            activation=self.activation,
            units=len(self.alive),
            scale=math.sqrt(self.squares / self.count),
            dead=float(1 - np.mean(self.alive)) if self.activation == "relu" else None,
            saturated=self.saturated / self.count if squashed else None,
            weights=_norm(map(keras.ops.convert_to_numpy, kernels)) if kernels else None,
            gradient=_norm(steps) if steps else None,
        )


def _batches(x: Any) -> Iterator[slice]:
    size = max(1, min(_BATCH, _PLACES // math.prod(x.shape[1:-1])))
    for start in range(0, len(x), size):
        yield slice(start, start + size)


def _run(graph: Any, inputs: list[Any], prefix: str, tallies: dict[str, _Tally]) -> list[Any]:
    """Computes a graph, nested models opened, and tallies what the layers give."""
    values = {id(t): value for t, value in zip(graph.inputs, inputs, strict=True)}
    for node in nodes(graph):
        if node.is_input:
            continue
        operation, name = node.operation, prefix + node.operation.name
        args, kwargs = node.arguments.fill_in(values)
        if (inner := graph_of(operation)) is not None:
            given = [values[id(t)] for t in node.input_tensors]
            outputs = _run(inner, given, f"{name}/", tallies)
        else:
            outputs = keras.tree.flatten(operation(*args, **kwargs))
            if _activation(operation) or _kernels(operation):
                tally = tallies.setdefault(name, _Tally(operation))
                tally.add(keras.ops.convert_to_numpy(keras.ops.cast(outputs[0], "float32")))
        values |= zip(map(id, node.output_tensors), outputs, strict=True)
    return [values[id(t)] for t in graph.outputs]


def _activation(operation: Any) -> str:
    function = getattr(operation, "activation", None)
    known = getattr(function, "__name__", type(operation).__name__).lower()
    return {"relu6": "relu"}.get(known, known if known in ("relu", "sigmoid", "tanh") else "")


def _kernels(operation: Any) -> list[Any]:
    weights = getattr(operation, "trainable_weights", [])
    return [w for w in weights if "kernel" in w.name or w.name == "codebook"]


def _norm(arrays: Iterable[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays))


def _gradients(model: keras.Model, x: Any, y: Any) -> dict[int, np.ndarray]:
    """Returns by variable the gradient of the mean loss; nothing on other backends."""
    if not model.compiled:
        raise UsageError(
            "Gradients need a loss", where=model.name, todo="compile the model, or leave out `y`"
        )
    if keras.backend.backend() != "tensorflow":
        return {}
    import tensorflow as tf  # Keras has no gradient of its own.

    variables = model.trainable_variables
    total = {id(variable): np.zeros(variable.shape) for variable in variables}
    for batch in _batches(x):
        part, wanted = (tf.convert_to_tensor(v[batch]) for v in (x, y))
        with unit_strides(), tf.GradientTape() as tape:
            loss = model.compute_loss(part, wanted, model(part, training=False), training=False)
        found = tape.gradient(loss, [v.value for v in variables], unconnected_gradients="zero")
        for variable, gradient in zip(variables, found, strict=True):
            total[id(variable)] += len(part) / len(x) * np.asarray(gradient)
    return total


def _drift(
    what: str, values: list[tuple[str, float]], *, forward: bool
) -> dict[tuple[str, str], str]:
    """Says that a quantity vanishes or explodes on its way through the layers."""
    broken = [name for name, value in values if not math.isfinite(value)]
    if broken:
        return {(what, "broken"): f"{what} explode: those of {broken[0]} are not finite"}
    if not values or not any(value for _, value in values):
        return {}
    way = values if forward else values[::-1]
    (small, low), (large, high) = (extreme(way, key=lambda pair: pair[1]) for extreme in (min, max))
    if low * _FAR > high:
        return {}
    order = [name for name, _ in way]
    verb = "vanish" if order.index(large) < order.index(small) else "explode"
    start, end = (large, small) if verb == "vanish" else (small, large)
    sizes = dict(values)
    text = (
        f"{what} {verb}: {sizes[start]:.2g} in {start}, {sizes[end]:.2g} in {end}: another "
        "initialization, batch normalization or shortcuts would help"
    )
    return {(what, verb): text}

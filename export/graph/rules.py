"""What each kind of layer does to the channels that pass through it.

A rule gets a `Call` and returns the channels of the outputs. Layers without a rule protect what
they touch: nothing is guessed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import TypeAlias

import keras
import numpy as np

from export.graph.channels import Channels
from export.graph.channels import Filters
from export.graph.channels import Ids
from export.graph.channels import Mask
from export.graph.channels import Site


@dataclass(frozen=True)
class Call:
    """One call of one layer.

    Attributes:
        path: Name of the layer; inside a nested model, `outer/inner`.
        node: Keras' own record of the call.
        given: Channels of each input.
        channels: Where new channels come from and what is found out goes.
        site: What is known about the layer.
    """

    path: str
    node: Any
    given: list[Ids]
    channels: Channels
    site: Site

    @property
    def layer(self) -> Any:
        return self.site.layer

    def tie(self, key: Any, ids: Ids) -> Ids:
        """Returns the channels first seen under `key`, to which `ids` are bound."""
        first = self.site.seen.setdefault(key, ids)
        if first is not ids:
            self.channels.same(first, ids)
        return first

    def slice(self, variable: Any, axis: int, ids: Ids) -> None:
        """Says that one axis of a weight is cut as `ids` are."""
        axes = self.site.slices.setdefault(id(variable), {})
        axes[axis % len(variable.shape)] = self.tie((id(variable), axis), ids)

    def count(self, key: str, ids: Ids) -> None:
        """Says that the config holds the number of `ids` under `key`."""
        self.site.edits[key] = lambda keep: int(keep[ids].sum())

    def shape(self, key: str, shape: tuple[int | None, ...], ids: Ids) -> None:
        """Says that the config holds `shape`, whose last axis has the channels `ids`."""
        ids = self.tie(key, ids)
        if len(ids):  # Else the axis has no known size.
            self.site.edits[key] = lambda keep: (*shape[:-1], int(keep[ids].sum()))

    def make(self, key: str, width: int) -> Ids:
        """Returns the channels that the layer makes, as many as its config says under `key`."""
        ids = self.site.seen.get(key)
        ids = self.channels.new(width) if ids is None else ids
        self.count(key, ids)
        return self.tie(key, ids)

    def filters(self, kernel: Any, ids: Ids, *, swapped: bool = False) -> list[Ids]:
        """Says that `kernel` makes the channels `ids`, and returns them as the outputs."""
        self.site.filters = Filters(self.path, kernel, ids, swapped)
        if self.layer.use_bias:
            self.slice(self.layer.bias, 0, ids)
        return [ids]

    def protect(self, reason: str) -> list[Ids]:
        """Fixes all channels of the call, and returns new ones for the outputs."""
        self.channels.protected[self.path] = reason
        made = [self.channels.new(width(t)) for t in self.node.output_tensors]
        for ids in [*self.given, *made]:
            self.channels.fix(ids)
        return made


Rule: TypeAlias = Callable[[Call], list[Ids]]

_UNKNOWN = "what {} does to channels is not known"
# Of `keras.activations`.
_ELEMENTWISE = """
    celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear
    log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink softplus softsign sparse_plus
    sparse_sigmoid squareplus tanh tanh_shrink threshold
"""
# Layers, then operations of `keras.ops`, that treat every channel alike and by itself. What the
# normalization of features divides by stays the same without channels of zeros.
_THROUGH = """
    Activation ActivityRegularization AlphaDropout Dropout ELU GaussianDropout GaussianNoise
    Identity LeakyReLU ReLU SpatialDropout1D SpatialDropout2D SpatialDropout3D StochasticDepth
    AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
    AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D
    AveragePooling1D AveragePooling2D AveragePooling3D MaxPooling1D MaxPooling2D MaxPooling3D
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
    Cropping1D Cropping2D Cropping3D UpSampling1D UpSampling2D UpSampling3D
    ZeroPadding1D ZeroPadding2D ZeroPadding3D CenterCrop Resizing
    RandomCrop RandomFlip RandomRotation RandomTranslation RandomZoom
    cnnkit>FeatureNormalization cnnkit>LpPooling2D cnnkit>RReLU cnnkit>StochasticPooling2D

    Absolute Cast Clip ConvertToTensor Elu Exp Gelu HardSigmoid HardSilu HardTanh LeakyRelu
    Negative Power Relu Relu6 Selu Sigmoid Silu Softplus Softsign Sqrt Square StopGradient Tanh
"""
# Merging layers and the operations of the same names.
_MERGE = "Add Average CustomScaleLayer Divide Maximum Minimum Multiply Subtract TrueDivide"


def width(tensor: Any) -> int:
    """Returns the size of a tensor's last axis, 0 if there is none of known size."""
    return (tensor.shape[-1] or 0) if len(tensor.shape) > 1 else 0


def apply(call: Call) -> list[Ids]:
    """Returns the channels of a call's outputs."""
    layer = call.layer
    rule = _RULES.get(_kind(layer))
    if rule is None or _has_array_argument(call.node):
        return call.protect(_UNKNOWN.format(type(layer).__name__))
    if getattr(layer, "data_format", None) == "channels_first":
        return call.protect("its channels are not the last axis")
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return call.protect("its weights are quantized or have LoRA factors")
    if len(call.given) > 1 and rule not in (_merge, _concatenate):
        return call.protect("it takes several inputs")
    made = rule(call)
    activation = getattr(layer, "activation", None)
    if activation is not None and not _elementwise(activation):
        call.channels.protected[call.path] = f"its activation {_name(activation)} may mix channels"
        call.channels.fix(made[0])
    return made


def _kind(layer: Any) -> str:
    # By name: Keras keeps the classes behind `keras.ops` and those of its applications private.
    # A class of somebody else's, a subclass included, goes by its registered name, if it has one.
    kind = type(layer)
    if kind.__module__.startswith("keras."):
        return kind.__name__
    name = keras.saving.get_registered_name(kind)
    return name if ">" in name else ""


def _has_array_argument(node: Any) -> bool:
    leaves = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    return any(np.ndim(x) for x in leaves if not isinstance(x, keras.KerasTensor))


def _elementwise(activation: Any) -> bool:
    return any(activation is getattr(keras.activations, name) for name in _ELEMENTWISE.split())


def _name(activation: Any) -> str:
    return getattr(activation, "__name__", type(activation).__name__)


def _through(call: Call) -> list[Ids]:
    return call.given


def _fixed(call: Call) -> list[Ids]:
    """Channelwise, but its state cannot be cut. It stands where pictures come in."""
    call.channels.fix(call.given[0])
    return call.given


def _mixer(call: Call) -> list[Ids]:
    return call.protect("it mixes channels")


def _input(call: Call) -> list[Ids]:
    call.shape("batch_shape", call.layer.batch_shape, call.given[0])
    return call.given


def _weighted(key: str, *, swapped: bool = False) -> Rule:
    """Dense layers and convolutions: kernel (…, inputs, outputs), swapped if transposed."""

    def rule(call: Call) -> list[Ids]:
        kernel, ids = call.layer.kernel, call.make(key, getattr(call.layer, key))
        given: Ids | None = call.given[0]
        if getattr(call.layer, "groups", 1) > 1:
            given = _grouped(call, call.layer.groups, ids)
        if given is not None:
            call.slice(kernel, -1 if swapped else -2, given)
        call.slice(kernel, -2 if swapped else -1, ids)
        return call.filters(kernel, ids, swapped=swapped)

    return rule


def _grouped(call: Call, groups: int, made: Ids) -> Ids | None:
    """Returns the inputs along the kernel's axis, None if that axis is never cut."""
    given, made = call.given[0].reshape(groups, -1), made.reshape(groups, -1)
    if groups >= given.shape[1]:  # Many small groups: whole groups go.
        call.channels.same(given, given[:, :1])
        call.channels.same(made, given[:, :1])
        call.count("groups", given[:, 0])
        return None
    # Few large groups: the same position goes in every group.
    call.channels.same(given, given[:1])
    call.channels.same(made, made[:1])
    return given[0]


def _depthwise(call: Call) -> list[Ids]:
    kernel = call.layer.kernel  # (…, inputs, multiplier)
    call.slice(kernel, -2, call.given[0])
    return call.filters(kernel, np.repeat(call.given[0], kernel.shape[-1]))


def _separable(call: Call) -> list[Ids]:
    layer, ids = call.layer, call.make("filters", call.layer.filters)
    call.slice(layer.depthwise_kernel, -2, call.given[0])
    between = np.repeat(call.given[0], layer.depthwise_kernel.shape[-1])
    call.slice(layer.pointwise_kernel, -2, between)
    call.slice(layer.pointwise_kernel, -1, ids)
    return call.filters(layer.pointwise_kernel, ids)


def _per_channel(*names: str, size: str = "") -> Rule:
    """Weights with a value for each channel on their last axis, or one for all channels."""

    def rule(call: Call) -> list[Ids]:
        (ids,) = call.given
        for variable in (getattr(call.layer, name) for name in names):
            if variable is not None and variable.shape[-1] == len(ids):
                call.slice(variable, -1, ids)
        if size:
            call.count(size, ids)
        return [ids]

    return rule


def _normalization(*names: str, mixing: bool = False) -> Rule:
    scale = _per_channel(*names)

    def rule(call: Call) -> list[Ids]:
        axis, rank = call.layer.axis, len(call.node.input_tensors[0].shape)
        axes = list(axis) if isinstance(axis, list | tuple) else [axis]
        if axes not in ([-1], [rank - 1]):
            return call.protect("it normalizes over other axes than the last")
        if mixing:
            call.channels.mixing[call.path] = call.given[0]
        return scale(call)

    return rule


def _neighbours(call: Call) -> list[Ids]:
    """Each channel is normalized by those beside it, and other ones move up to it."""
    call.channels.mixing[call.path] = call.given[0]
    return call.given


def _group_normalization(call: Call) -> list[Ids]:
    groups = call.layer.groups
    rows = call.given[0].reshape(groups, -1)
    made = _normalization("gamma", "beta", mixing=rows.shape[1] > 1)(call)
    if rows.shape[1] == 1:  # Instance normalization.
        call.count("groups", call.given[0])
    else:
        call.channels.same(rows, rows[:1])
    return made


def _rescaling(call: Call) -> list[Ids]:
    for key in ("scale", "offset"):
        value = np.asarray(getattr(call.layer, key))
        if value.ndim:
            call.site.edits[key] = _chosen(value, call.tie(key, call.given[0]))
    return call.given


def _chosen(values: np.ndarray, ids: Ids) -> Callable[[Mask], list[float]]:
    return lambda keep: values[keep[ids]].tolist()


def _merge(call: Call) -> list[Ids]:
    widest = max(call.given, key=len)
    for ids in call.given:
        if len(ids) == len(widest):
            call.channels.same(widest, ids)
        else:  # One channel that is broadcast over all.
            call.channels.fix(ids)
    return [widest]


def _concatenate(call: Call) -> list[Ids]:
    rank = len(call.node.output_tensors[0].shape)
    if call.layer.axis in (-1, rank - 1):
        return [np.concatenate(call.given)]
    return _merge(call)


def _reduce(call: Call) -> list[Ids]:
    rank, axis = len(call.node.input_tensors[0].shape), call.layer.axis
    axes = range(rank) if axis is None else np.atleast_1d(axis) % rank
    if rank - 1 in axes:
        return call.protect("it reduces the channels to one")
    return call.given


def _reshape(call: Call) -> list[Ids]:
    shape, target = call.node.input_tensors[0].shape[1:], call.node.output_tensors[0].shape[1:]
    (ids,) = call.given
    if shape[-1:] != target[-1:]:
        if None in (*shape, *target) or not len(ids):
            return call.protect("it moves channels in a tensor of unknown size")
        rows = np.broadcast_to(ids, shape).reshape(-1, target[-1])
        call.channels.same(rows, rows[:1])
        ids = rows[0]
    written = getattr(call.layer, "target_shape", (-1,))
    if written[-1] != -1:
        call.shape("target_shape", written, ids)
    return [ids]


_RULES: dict[str, Rule] = {
    "InputLayer": _input,
    "Dense": _weighted("units"),
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _weighted("filters")),
    **dict.fromkeys(
        ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
        _weighted("filters", swapped=True),
    ),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    "BatchNormalization": _normalization("gamma", "beta", "moving_mean", "moving_variance"),
    "LayerNormalization": _normalization("gamma", "beta", mixing=True),
    "RMSNormalization": _normalization("scale", mixing=True),
    "GroupNormalization": _group_normalization,
    "cnnkit>LocalResponseNormalization": _neighbours,
    "cnnkit>MeanImage": _per_channel("mean"),
    "LayerScale": _per_channel("gamma", size="projection_dim"),
    "PReLU": _per_channel("alpha"),
    "Rescaling": _rescaling,
    "Normalization": _fixed,
    **dict.fromkeys(("Flatten", "Reshape"), _reshape),
    "Concatenate": _concatenate,
    **dict.fromkeys(_MERGE.split(), _merge),
    "Softmax": _mixer,
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), _reduce),
    **dict.fromkeys(_THROUGH.split(), _through),
}

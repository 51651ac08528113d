"""Layers that Keras lacks."""

from cnnkit.layers.binary import BinaryConv2D as BinaryConv2D
from cnnkit.layers.binary import BinaryDense as BinaryDense
from cnnkit.layers.feature_normalization import FeatureNormalization as FeatureNormalization
from cnnkit.layers.hashed import HashedConv2D as HashedConv2D
from cnnkit.layers.hashed import HashedDense as HashedDense
from cnnkit.layers.local_response_normalization import (
    LocalResponseNormalization as LocalResponseNormalization,
)
from cnnkit.layers.lp_pooling import LpPooling2D as LpPooling2D
from cnnkit.layers.mean_image import MeanImage as MeanImage
from cnnkit.layers.rrelu import RReLU as RReLU
from cnnkit.layers.stochastic_pooling import StochasticPooling2D as StochasticPooling2D
from cnnkit.layers.toeplitz import ToeplitzDense as ToeplitzDense

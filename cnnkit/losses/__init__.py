"""Losses that Keras lacks."""

from cnnkit.losses.center_loss import CenterLoss as CenterLoss
from cnnkit.losses.class_loss import ClassLoss as ClassLoss
from cnnkit.losses.class_weighted import ClassWeighted as ClassWeighted
from cnnkit.losses.class_weighted import class_weights as class_weights
from cnnkit.losses.cost_matrix import CostMatrix as CostMatrix
from cnnkit.losses.cost_matrix import costs_from_confusion as costs_from_confusion
from cnnkit.losses.cost_matrix import costs_from_counts as costs_from_counts
from cnnkit.losses.cost_vector import CostVector as CostVector
from cnnkit.losses.hinge import Hinge as Hinge
from cnnkit.losses.label_distribution import LabelDistribution as LabelDistribution
from cnnkit.losses.label_distribution import expectation as expectation
from cnnkit.losses.label_distribution import gaussian as gaussian
from cnnkit.losses.large_margin_softmax import LargeMarginSoftmax as LargeMarginSoftmax
from cnnkit.losses.large_margin_softmax import angular as angular
from cnnkit.losses.ramp import Ramp as Ramp
from cnnkit.losses.tukey_biweight import TukeyBiweight as TukeyBiweight

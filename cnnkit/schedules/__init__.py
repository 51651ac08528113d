"""Learning-rate schedules that Keras lacks."""

from cnnkit.schedules.warmup import Warmup as Warmup

"""Augmentations: functions `(x, y, seed) -> (x, y)` of a batch of pictures and soft labels.

They are written in TensorFlow's operations, not in `keras.ops`, because they run inside of tf.data
whatever the backend of Keras is: it feeds TensorFlow and JAX alike.
"""

from cnnkit.augmentation.augmentation import Augmentation as Augmentation
from cnnkit.augmentation.box_crop import BoxCrop as BoxCrop
from cnnkit.augmentation.cut_mix import CutMix as CutMix
from cnnkit.augmentation.erasing import Erasing as Erasing
from cnnkit.augmentation.fancy_pca import FancyPCA as FancyPCA
from cnnkit.augmentation.fancy_pca import principal_colours as principal_colours
from cnnkit.augmentation.flip import Flip as Flip
from cnnkit.augmentation.hsv_jitter import HSVJitter as HSVJitter
from cnnkit.augmentation.mix_up import MixUp as MixUp
from cnnkit.augmentation.one_of import OneOf as OneOf
from cnnkit.augmentation.random_crop import RandomCrop as RandomCrop
from cnnkit.augmentation.rgb_jitter import RGBJitter as RGBJitter
from cnnkit.augmentation.rotation import Rotation as Rotation
from cnnkit.augmentation.scale import Scale as Scale
from cnnkit.augmentation.stack import Stack as Stack
from cnnkit.augmentation.warp import Warp as Warp

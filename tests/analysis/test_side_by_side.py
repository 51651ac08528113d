import keras
from keras import layers

from cnnkit import models
from cnnkit.analysis import side_by_side


def test_figure_3_11():
    names = ("vgg19", "plain34", "resnet34")
    rows = side_by_side.table(models.build(name, (224, 224, 3), 1000) for name in names)
    vgg, plain, resnet = rows
    assert [row.name for row in rows] == list(names)
    # He et al. 2016, figure 3: 19.6 and 3.6 billion multiply-adds.
    assert [row.depth for row in rows] == [19, 34, 34]
    assert [round(row.macs / 1e9, 1) for row in (vgg, plain)] == [19.6, 3.6]
    assert resnet.flops == 2 * resnet.macs
    assert (vgg.params, plain.params) == (143_667_240, 21_639_080)
    # Sixteen 3x3 layers and five poolings; the residual net sees as much as its plain twin.
    assert vgg.field == (268, 268)
    assert plain.field == resnet.field == (899, 899)


def test_depth_is_the_longest_way():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1)(image)
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
    y = layers.SeparableConv2D(4, 3, padding="same")(layers.ReLU()(y))
    x = layers.GlobalAveragePooling2D()(layers.Add()([layers.Conv2D(4, 1)(x), y]))
    model = keras.Model(image, layers.Dense(2)(x))
    assert side_by_side.depth(model) == 4
    assert side_by_side.depth(keras.Model(image, layers.ReLU()(image))) == 0


def test_without_places_there_is_no_field():
    x = keras.Input((5,))
    (row,) = side_by_side.table([keras.Model(x, layers.Dense(3)(x), name="dense")])
    assert (row.field, row.depth, row.params, row.macs) == ((), 1, 18, 15)

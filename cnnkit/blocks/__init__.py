"""Blocks of plain Keras layers: functions from a tensor to a tensor, which pruning sees through."""

from cnnkit.blocks.conv_m import conv_m as conv_m
from cnnkit.blocks.fire import fire as fire
from cnnkit.blocks.highway import highway_conv as highway_conv
from cnnkit.blocks.mlp_conv import mlp_conv as mlp_conv
from cnnkit.blocks.residual import basic_block as basic_block
from cnnkit.blocks.residual import bottleneck_block as bottleneck_block

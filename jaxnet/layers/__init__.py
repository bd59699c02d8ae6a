"""Layers and pure functions that Flax lacks or that run faster here."""

from .convolution import Conv as Conv
from .convolution import conv as conv
from .pooling import avg_pool as avg_pool
from .pooling import global_avg_pool as global_avg_pool
from .pooling import global_max_pool as global_max_pool
from .pooling import global_min_pool as global_min_pool
from .pooling import max_pool as max_pool
from .pooling import min_pool as min_pool
from .windows import conv_output_size as conv_output_size

"""Layers: Flax Linen's own where those are right and fast, and what it lacks or does slowly.

All take the channels last. Where a default is not the one that users of another library know:

| layer | here | Keras | PyTorch |
|---|---|---|---|
| `Dense` | kernel `(in, out)`, `lecun_normal` | `glorot_uniform` | uniform, limit `1 / sqrt(in)` |
| `Conv` | `padding="SAME"` | `"valid"` | 0 |
| `BatchNorm` | `momentum=0.99`, `epsilon=1e-5` | 0.99, 1e-3 | 0.1 (0.9 here), 1e-5 |
| `LayerNorm` | `epsilon=1e-6` | 1e-3 | 1e-5 |
| `RMSNorm` | `epsilon=1e-6` | 1e-6 | the type's machine epsilon |
| `Embed` | normal, variance `1 / features` | uniform in ±0.05 | normal, variance 1 |
| `PReLU` | slope 0.01, one for all | 0, one for each place | 0.25, one for all |

- `BatchNorm(use_running_average=not train)` normalises by the batch and remembers
  `momentum * running + (1 - momentum) * batch`. The variance it remembers is the biased one, by n
  (the batch times the pixels), as Keras's is. PyTorch computes with that and remembers the unbiased
  one, by n - 1: training is the same, evaluation differs a little. The variance is
  `E[x^2] - E[x]^2`, which is fast, and good enough unless the mean is hundreds of deviations: then
  take `use_fast_variance=False`. The rows that fill up an epoch's last batch are ordinary examples
  (`jaxnet.data.batches`) and count; `mask=` leaves out others of your own.
- `Dropout(rate, deterministic=not train)` scales what it keeps by `1 / (1 - rate)`. With
  `broadcast_dims=(1, 2)` it drops whole channels of images `(batch, height, width, channels)`: the
  spatial dropout of Tompson et al. (2015); `(1,)` is that of sequences.
- `Embed` turns an index beyond its table into NaN, and counts -1 from the end, as NumPy does.
"""

from flax.linen import BatchNorm as BatchNorm
from flax.linen import Dropout as Dropout
from flax.linen import LayerNorm as LayerNorm
from flax.linen import PReLU as PReLU
from flax.linen import RMSNorm as RMSNorm

from .activations import maxout as maxout
from .attention import MultiHeadAttention as MultiHeadAttention
from .attention import attention as attention
from .attention import attention_maps as attention_maps
from .attention import attention_weights as attention_weights
from .attention import causal_mask as causal_mask
from .convolution import Conv as Conv
from .convolution import conv as conv
from .dense import Dense as Dense
from .dense import Embed as Embed
from .experts import ExpertFeedForward as ExpertFeedForward
from .experts import route as route
from .kv_cache import KeyValues as KeyValues
from .kv_cache import advanced as advanced
from .kv_cache import new_positions as new_positions
from .maxout import Maxout as Maxout
from .nearest import log_partition as log_partition
from .nearest import nearest as nearest
from .pooling import AvgPool as AvgPool
from .pooling import GlobalAvgPool as GlobalAvgPool
from .pooling import GlobalMaxPool as GlobalMaxPool
from .pooling import GlobalMinPool as GlobalMinPool
from .pooling import MaxPool as MaxPool
from .pooling import MinPool as MinPool
from .pooling import adaptive_avg_pool as adaptive_avg_pool
from .pooling import avg_pool as avg_pool
from .pooling import global_avg_pool as global_avg_pool
from .pooling import global_max_pool as global_max_pool
from .pooling import global_min_pool as global_min_pool
from .pooling import max_pool as max_pool
from .pooling import min_pool as min_pool
from .positions import LearnedPositions as LearnedPositions
from .positions import check_length as check_length
from .positions import rotary as rotary
from .positions import sinusoidal as sinusoidal
from .positions import token_positions as token_positions
from .rnn import GRU as GRU
from .rnn import LSTM as LSTM
from .rnn import RECURRENT as RECURRENT
from .rnn import SimpleRNN as SimpleRNN
from .rnn_functional import LSTMState as LSTMState
from .rnn_functional import gru as gru
from .rnn_functional import lstm as lstm
from .rnn_functional import sequence_mask as sequence_mask
from .rnn_functional import simple_rnn as simple_rnn
from .separable import DepthwiseConv as DepthwiseConv
from .separable import SeparableConv as SeparableConv
from .sequential import Flatten as Flatten
from .sequential import Sequential as Sequential
from .tokens import check_tokens as check_tokens
from .transformer import DecoderBlock as DecoderBlock
from .transformer import FeedForward as FeedForward
from .transformer import GatedFeedForward as GatedFeedForward
from .transformer import Stack as Stack
from .transformer import TransformerBlock as TransformerBlock
from .transposed import ConvTranspose as ConvTranspose
from .transposed import conv_transpose as conv_transpose
from .windows import check_images as check_images
from .windows import conv_output_size as conv_output_size
from .windows import conv_transpose_output_size as conv_transpose_output_size

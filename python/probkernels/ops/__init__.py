"""Public ops. Each is one file here, with twins of its name in reference/, csrc/, tests/, bench/.

This file is written by ``python docs/lists.py``, from the ``__all__`` of all others.
"""

from ._rans_coder import RansCoder
from .adaptive_code import adaptive_decode, adaptive_encode
from .arc_cosine import arc_cosine, arc_cosine_diagonal
from .bar_log_prob import bar_log_prob
from .conv_arc_cosine import conv_arc_cosine, conv_arc_cosine_diagonal
from .em_update import em_update_
from .kl_rows import kl_rows
from .latent_tree import latent_tree, latent_tree_flows
from .leaf_gather import leaf_gather, leaf_histogram
from .leapfrog_step import leapfrog_adjoint_, leapfrog_step_
from .linear_step import linear_step
from .magnitude_select import magnitude_histogram, magnitude_kth, magnitude_select
from .pairwise_softmax import pairwise_softmax
from .philox import philox_normal, philox_uniform
from .power_norm import power_norm, power_norm_v
from .program_code import program_decode, program_encode
from .prox_softmax import prox_softmax
from .pvrnn_scan import pvrnn_scan
from .rans import quantize_cdf, rans_decode, rans_decode_pmf, rans_encode, rans_encode_pmf
from .rbf_mean import rbf_mean
from .sampled_matmul import sampled_conv, sampled_matmul
from .selection import Selection
from .sghmc_step import sghmc_step_
from .softplus_sigmoid import softplus_sigmoid
from .sparse_adamw import dequantize_blocks, quantize_blocks, sparse_adamw_
from .stochastic_gate import stochastic_gate
from .sum_layer import sum_layer, sum_layer_bwd

__all__ = [
    "RansCoder",
    "Selection",
    "adaptive_decode",
    "adaptive_encode",
    "arc_cosine",
    "arc_cosine_diagonal",
    "bar_log_prob",
    "conv_arc_cosine",
    "conv_arc_cosine_diagonal",
    "dequantize_blocks",
    "em_update_",
    "kl_rows",
    "latent_tree",
    "latent_tree_flows",
    "leaf_gather",
    "leaf_histogram",
    "leapfrog_adjoint_",
    "leapfrog_step_",
    "linear_step",
    "magnitude_histogram",
    "magnitude_kth",
    "magnitude_select",
    "pairwise_softmax",
    "philox_normal",
    "philox_uniform",
    "power_norm",
    "power_norm_v",
    "program_decode",
    "program_encode",
    "prox_softmax",
    "pvrnn_scan",
    "quantize_blocks",
    "quantize_cdf",
    "rans_decode",
    "rans_decode_pmf",
    "rans_encode",
    "rans_encode_pmf",
    "rbf_mean",
    "sampled_conv",
    "sampled_matmul",
    "sghmc_step_",
    "softplus_sigmoid",
    "sparse_adamw_",
    "stochastic_gate",
    "sum_layer",
    "sum_layer_bwd",
]

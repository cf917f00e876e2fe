"""Models of sequences: any-order prediction with extraction of structure, variational recurrent networks."""

from .error_regression import ErrorRegression
from .posterior_bank import PosteriorBank
from .pvrnn import PVRNN, PVLayer
from .pvrnn_outputs import GaussianOutput, SoftmaxCode
from .pvrnn_training import fit_pvrnn

__all__ = ["PVRNN", "ErrorRegression", "GaussianOutput", "PVLayer", "PosteriorBank", "SoftmaxCode", "fit_pvrnn"]

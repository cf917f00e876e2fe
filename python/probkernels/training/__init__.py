"""The training loop of all rooms: progress bar, resumable checkpoints, early stopping, Ctrl-C between steps."""

from .checkpoint import Checkpoint, copy_state_
from .distributed import DataParallel
from .early_stopping import EarlyStopping
from .ema import EMA
from .interrupt import DeferredInterrupt
from .loop import Loop, cosine, minimize

__all__ = [
    "EMA",
    "Checkpoint",
    "DataParallel",
    "DeferredInterrupt",
    "EarlyStopping",
    "Loop",
    "copy_state_",
    "cosine",
    "minimize",
]

"""Digits by a deep kernel machine, with the fixed kernel of a wide network and with learned Gram matrices.

Needs scikit-learn for the images: pip install 'probkernels[report]'
"""

from __future__ import annotations

import math

import numpy as np
from probkernels.kernel_methods import DKMClassifier
from sklearn.datasets import load_digits

pixels, digit = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(pixels))
train, test = order[:600], order[600:1200]

for nu in (math.inf, 1.0):
    model = DKMClassifier(n_inducing=50, depth=2, nu=nu, epochs=20, batch_size=200, samples=20, scale="global")
    probs = model.fit(pixels[train], digit[train]).predict_proba(pixels[test])
    nll = -np.log(probs[np.arange(len(test)), digit[test]]).mean()
    print(f"nu {nu:<4}  accuracy {(probs.argmax(1) == digit[test]).mean():.3f}  NLL {nll:.3f}")

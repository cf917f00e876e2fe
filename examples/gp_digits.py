"""Gaussian processes: regressions that know what they do not know, on handwritten digits.

The task: tell how much ink the lower half of a digit has, from its upper half. Three regressions learn from 200 digits:
a GP with its hyperparameters fitted to the evidence, a sparse GP that sees 1,000 digits through 40 inducing points, and
the ensemble of infinitely wide networks. Each predicts new digits; the GPs also say how sure they are.

    python examples/gp_digits.py
"""

import torch
from probkernels.kernel_methods import RBF, GPRegression, MLPKernel, NTKRegressor, SparseGPRegression
from sklearn.datasets import load_digits


def halves() -> tuple[torch.Tensor, torch.Tensor]:
    """Upper halves of scikit-learn's digits in random order, and the standardized ink of their lower halves."""
    images = torch.from_numpy(load_digits().images)[torch.randperm(1797)] / 16
    ink = images[:, 4:].sum((1, 2))
    return images[:, :4].flatten(1), (ink - ink.mean()) / ink.std()


def main() -> None:
    torch.manual_seed(0)
    x, y = halves()
    new = slice(1000, None)
    gp = GPRegression(x[:200], y[:200], kernel=RBF(2.0), noise=0.1).fit_hyperparameters(60)
    sparse = SparseGPRegression(x[:1000], y[:1000], 40, RBF(2.0), 0.1).fit(40)
    wide = NTKRegressor(MLPKernel(depth=2, b_std=0.3), ridge=0.1).fit(x[:200], y[:200])
    with torch.no_grad():
        for name, model in (("GP", gp), ("sparse GP", sparse)):
            law = model.predict(x[new], noisy=True)
            error = (law.mean - y[new]).square().mean().sqrt()
            inside = ((law.mean - y[new]).abs() < 1.96 * law.stddev).double().mean()
            print(f"{name}: error {error:.3f}, {inside:.3f} of new digits in their 95 % interval")
        print(f"wide networks: error {(wide.predict(x[new]) - y[new]).square().mean().sqrt():.3f}")
    print(f"log evidence of 200 digits: {gp.history[0]:.1f} before the fit, {gp.log_evidence():.1f} after it")


if __name__ == "__main__":
    main()

"""Calibration: a network that learned digits with wrong labels by heart says how sure it may be.

A network is trained until it knows 600 digits by heart, a third of whose labels are wrong. On new digits it is far too
sure. Two maps are fitted to 600 held-out digits: a temperature by likelihood, and the temperatures of h-calibration.
Neither changes what the network predicts, and both make its probabilities honest.

    python examples/calibration_digits.py
"""

import torch
from probkernels import uncertainty as un
from sklearn.datasets import load_digits


def noisy_digits(share: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's 1,797 digits in random order, some of them with a random label."""
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    labels = torch.from_numpy(digits.target)[order]
    wrong = torch.rand(len(labels)) < share
    labels = torch.where(wrong, torch.randint(10, labels.shape), labels)
    return torch.from_numpy(digits.data)[order].float() / 16, labels


def trained(x: torch.Tensor, labels: torch.Tensor) -> torch.nn.Module:
    """A network that knows its training set by heart."""
    net = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(400):
        loss = torch.nn.functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def main() -> None:
    torch.manual_seed(0)
    x, labels = noisy_digits()
    net = trained(x[:600], labels[:600])
    with torch.no_grad():
        logits = net(x)
    held_out, new = slice(600, 1200), slice(1200, None)

    temperature = un.TemperatureScaling().fit(logits[held_out], labels[held_out])
    ours = un.HCalibrator("ensemble_ts", size=16).fit(logits[held_out], labels[held_out], epochs=150, lr=0.02)
    ways = {
        "uncalibrated": logits.log_softmax(1),
        "temperature, by likelihood": temperature(logits),
        "16 temperatures, h-calibration": ours(logits).detach(),
    }
    for name, log_probs in ways.items():
        probs, y = log_probs[new].exp(), labels[new]
        right = (probs.argmax(1) == y).double().mean()
        print(f"{name:31} {100 * right:.1f} % right, {100 * probs.amax(1).mean():.1f} % sure, ", end="")
        print(f"ECE {un.ece(probs, y):.4f}, KS {un.ks(probs, y):.4f}, NLL {un.nll(probs, y):.3f}")


if __name__ == "__main__":
    main()

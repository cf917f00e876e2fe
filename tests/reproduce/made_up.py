"""Made-up records of every method: at the expected figures, or so much worse that no claim can hold."""

from __future__ import annotations

import math
from typing import Any

import torch
from probkernels.kernel_methods import success_probability
from probkernels.reproduce.adjoint_dpm import records as adjoint
from probkernels.reproduce.cape import records as cape
from probkernels.reproduce.circuits import records as circuits
from probkernels.reproduce.counter_current import records as counter
from probkernels.reproduce.deep_kernel_machines import records as dkm
from probkernels.reproduce.forward_gnn import records as forward_gnn
from probkernels.reproduce.functional_prior import records as functional
from probkernels.reproduce.h_calibration import records as calibration
from probkernels.reproduce.inv_entropy import records as inv_entropy
from probkernels.reproduce.noprop import records as noprop
from probkernels.reproduce.pc_compression import records as compression
from probkernels.reproduce.permutation_ntk import records as permutations
from probkernels.reproduce.powernorm import records as powernorm
from probkernels.reproduce.powernorm.experiment import NORMS
from probkernels.reproduce.prob_psenn import records as psenn
from probkernels.reproduce.root import records as root
from probkernels.reproduce.sara import records as sara
from probkernels.reproduce.scale_mixture_nngp import records as mixtures
from probkernels.reproduce.sequential_bayes import records as sequential
from probkernels.reproduce.stochastic_neurons import records as neurons
from probkernels.reproduce.unlearnable import records as unlearnable
from probkernels.reproduce.utility_duality import records as duality

from tests.reproduce import made_up_rooms, made_up_survey


def of_powernorm(worse: bool) -> list[Any]:
    """Runs that end at the expected losses, or with PowerNorm well above both others."""
    trace = powernorm.Trace([0, 10], [[1.0, 2.0]] * 2, [[1.0, 1.5]] * 2, [[0.1, -0.1]] * 2)

    def loss(norm: str, batch: int) -> float:
        return powernorm.EXPECTED.get((norm, batch), 2.5) + worse * (norm == "PowerNorm")

    return [
        powernorm.Run(norm, batch, seed, [3.0, 2.5, 2.0] * 20, loss(norm, batch), [trace] * 4)
        for norm in NORMS
        for batch in (2, 8)
        for seed in powernorm.SEEDS
    ]


def of_sara(worse: bool) -> list[Any]:
    """Runs at the expected losses, or with the smallest weights as the worst choice."""
    zeroed = {
        (choice, share): 0.07 if worse else sara.EXPECTED_ZEROED.get((choice, share), 0.1)
        for choice in sara.CHOICES
        for share in sara.SHARES
    }
    found: list[Any] = []
    for seed in sara.SEEDS:
        found.append(sara.Pretrained(seed, {}, 6.97, 0.0616, zeroed))
        for name in sara.RECIPES:
            new, old, below = sara.EXPECTED.get(name.partition(", second")[0], (0.5, 0.3, None))
            if worse and name == sara.SARA:
                new, old = 0.9, 0.9
            trace = [(0, 7.0, 0.06), (100, 1.0, 0.2), (200, new, old)]
            points = [[1.0, 0.0, 0.0], [0.0, 1.0, 8.0]]
            found.append(sara.Tuned(name, seed, 8672, new, old, below, trace, points))
    costs = [sara.Cost("full AdamW", 100, 2**20, None, 0.2, 400), sara.Cost("SaRA", 6, 2**16, 2**20, 0.1, 30)]
    return [*found, *costs]


def of_circuits(worse: bool) -> list[Any]:
    """Records at the expected figures, or worse by 0.4 in everything."""
    off = 0.4 * worse
    levels = {circuits.SMALL: 2.054, circuits.LARGE: 2.05}
    Fit, Curve = circuits.Fit, circuits.Curve
    fits = [Fit("digits", m, s, v + off, v - 0.1) for m, v in levels.items() for s in circuits.SEEDS]
    fits += [Fit("MNIST", circuits.LARGE, 0, 1.2413 + off, 1.2), Fit("MNIST", "HCLT, M = 32", 0, 1.2113 + off)]
    fits += [Fit("MNIST", circuits.GROWN, 0, 1.178 + off, 1.16)]
    fits += [Fit("digits", circuits.FACTORIZED, 0, 2.394), Fit("digits", circuits.TREE, 0, 2.311)]
    fits += [Fit("digits", circuits.CATEGORICAL, 0, 2.26, detail="20 components")]
    fits += [Fit("digits", circuits.GAUSSIAN, 0, 2.38, detail="40 components")]
    em, adam = [2.3 + off, 2.06 + off, 2.05 + off], [2.5, 2.3, 2.08]
    curves = [Curve("EM", None, None, em * 4), Curve("Adam", 0.1, None, adam * 4), Curve("Adam", 0.1, 64, adam * 4)]
    curves += [Curve("EM", None, 64, em * 4), Curve("EM", None, 64, em[-2:] * 2)]
    halves = [circuits.Halves(circuits.SMALL, 1.98 + off, 0.23 + off, 0.25 + off)]
    halves.append(circuits.Halves(circuits.FACTORIZED, 2.4, 0.246, 0.28))
    classes = [circuits.Accuracy(circuits.BAYES, 0.9 - off), circuits.Accuracy("Gaussian naive Bayes", 0.846)]
    x, hidden = torch.arange(16).repeat(3, 1), torch.arange(16) >= 8
    pictures = circuits.Pictures(x, [x], x.float(), x, hidden)
    gallery = circuits.Gallery("digits", 17, pictures, {"HCLT": x, "other": x}, [-1] + [0] * 15, [1.0] * 16)
    return [*fits, *curves, *halves, *classes, gallery]


def of_adjoint_dpm(worse: bool) -> list[Any]:
    """Records at the expected figures, or with the exact gradient worse by 0.6 in everything."""
    off = 0.6 * worse
    image = [[0.0] * 64] * 10
    exact, lengths = adjoint.EXACT, adjoint.LENGTHS
    found: list[Any] = [adjoint.Judge(0.99)]
    for (steps, way), share in adjoint.EXPECTED_ATTACK.items():
        end = share - off * (way == exact)
        found += [adjoint.Attack(steps, way, seed, [0.0, 0.5, end], image, image) for seed in adjoint.SEEDS[steps]]
    for solver, steps in adjoint.EXPECTED_ERRORS:
        errors = (1.03 - off, 0.34, 0.46)
        found.append(adjoint.Errors(solver, steps, "continuous adjoint", errors, -0.95 + 2 * off))
    found.append(adjoint.Agreement("ddim", 1e-15 + off))
    for way, more in (("autograd", 99), (adjoint.CONTINUOUS, 1)):
        found.append(adjoint.Bytes(way, [(n + more) * 100 for n in lengths], 100))
    found.append(adjoint.Bytes(exact, [round(n * (1 + off)) * 100 for n in lengths], 100))
    found.append(adjoint.Bytes("reversible", [500 + round(n * off) for n in lengths], 100))
    found.append(adjoint.RoundTrip(10, round(10 * off)))
    found += [adjoint.Tuning(way, [0.3575, 0.1941 + off]) for way in (exact, adjoint.CONTINUOUS)]
    return found


def of_pc_compression(worse: bool) -> list[Any]:
    """Files as a good run leaves them, or files that are too large and do not decode."""
    found: list[Any] = []
    for data, model, pixels, size, model_bytes in (
        ("digits", compression.SMALL, 64, 8287, 19862), ("MNIST", compression.LARGE, 784, 1_220_000, 10**6),
        ("MNIST", compression.GROWN, 784, 1_160_000, 10**7),
    ):  # fmt: skip
        images = 500 if data == "digits" else 10_000
        file = compression.Coded(data, model, 0, size, 8 * size * 0.999, 0.01, images, pixels, model_bytes, True)
        if worse:
            file.bytes, file.alone, file.same = 2 * file.bytes, 1.0, False
        found.append(file)
        found.append(compression.Classic(data, "xz -9e", int(size * 1.3), 8 * size * 1.3 / images / pixels))
    x = torch.arange(64).expand(10, 64) % 17
    return [*found, compression.Costs("digits", 17, x, x.double() / 10)]


def of_cape(worse: bool) -> list[Any]:
    """Networks at the expected distances, or with early stopping and CaPE so bad that nothing is gained."""
    factors = {cape.EARLY: 15.0, cape.SELECTED: 30.0, cape.LAST: 2.0} if worse else {}
    faces: list[Any] = []
    for (scenario, model), values in cape.FACES.items():
        figures = dict(zip(cape.MEASURES, values, strict=True))
        figures["mse_p"] = 0.05 if worse else figures["mse_p"]
        faces.append(cape.Released(scenario, model, figures, 0.05, 0.02 * worse))
    return faces + [
        cape.Judged(scenario, way, seed, value * factors.get(way, 1.0), 0.05, 0.2)
        for scenario, ways in cape.EXPECTED.items()
        for way, value in ways.items()
        for seed in cape.SEEDS
    ]


def of_h_calibration(worse: bool) -> list[Any]:
    """Calibration errors and likelihoods as expected, or maps that change classes and leave the errors as they are."""
    found = []
    for (data, way), (ece, nll) in calibration.EXPECTED.items():
        for seed in calibration.SEEDS if data == calibration.DRAWN else (0,):
            ours = way in calibration.MAPS
            error = calibration.EXPECTED[data, calibration.BEFORE][0] if ours and worse else ece
            likelihood = (1.0 if nll is None else nll) + worse * ours
            factor, loss = 0.5 + 0.1 * (worse and ours), 0.07 if way == calibration.BEFORE or worse else 0.013
            bins = [(0.3, 0.25, 10.0), (0.9, 0.8, 30.0)]
            rest = (error, error, error, error / 10, likelihood, int(worse and ours), loss, factor, bins)
            found.append(calibration.Calibrated(data, way, seed, *rest))
    likelihood = calibration.LIKELIHOOD
    return [
        *found,
        calibration.Calibrated(calibration.DRAWN, likelihood, 0, 0.02, 0.02, 0.02, 0.01, 1.0, 0, 0.014, 0.5),
    ]


def of_inv_entropy(worse: bool) -> list[Any]:
    """Scores as expected, or Inv-Entropy no better than chance, which hardly rises, and a lemma that is wrong."""
    found: list[Any] = []
    for source in (inv_entropy.DRAWN, inv_entropy.WORDNET):
        for score in inv_entropy.SCORES:
            figures = [0.7 if x is None else x for x in inv_entropy.EXPECTED.get(score, (0.7, 0.5, 0.1))]
            if worse and score == inv_entropy.INV:
                figures = [0.5, 0.1, 0.0]
            found += [inv_entropy.Judged(source, score, seed, *figures) for seed in inv_entropy.QUICK_SEEDS]
    return [*found, *(inv_entropy.Lemma(seed, 0.5, 1.0 + worse, 1.001) for seed in inv_entropy.QUICK_SEEDS)]


def of_utility_duality(worse: bool) -> list[Any]:
    """Networks at the expected figures, or of which no scale helps; sequences that are exact, or not."""
    found: list[Any] = []
    for seed in duality.SEEDS:
        drawn = {b: 0.6 if worse else duality.EXPECTED.get(b, (0.9, 0.0))[0] for b in duality.SCALES}
        nll_b = 1.5 if worse else duality.EXPECTED_NLL_B[0]
        rest = (duality.EXPECTED_BEST[0], int(worse), nll_b, 5.0, (0.633, 0.6 if worse else 0.9), (0.85, 0.9))
        found.append(duality.Digits(duality.NOISE, seed, drawn, *rest))
    for b, (token, sequence) in duality.EXACT.items():
        found.append(duality.Sequences(b, token, sequence - 0.1 * worse, 1.0 - worse))
    return found


def of_root(worse: bool) -> list[Any]:
    """Proposals at the expected figures, or no better than the data."""
    found: list[Any] = []
    for task, epochs, best in ((root.TF_BIND, 3, 0.439), (root.TF_BIND, 6, 0.439), (root.EHRLICH, 3, 0.375)):
        for seed in root.SEEDS:
            for method in (root.BEST, root.ASCENT, root.LABELS, root.NO_LABELS, root.AWAY, root.SWAPPED):
                poor = worse or method == root.BEST
                figures = (best, best, best) if poor else (0.95, 0.75, 0.6)
                found.append(root.Proposals(task, epochs, method, seed, *figures, [0.1, 0.5, figures[0]]))
    return found


def of_prob_psenn(worse: bool) -> list[Any]:
    """Networks at the expected figures, or Gaussians that are wrong and equally unsure of everything."""
    found: list[Any] = []
    for way in psenn.WAYS:
        off = 0.5 * (worse and way == psenn.PROB)
        aurocs = {score: value - off for score, value in psenn.EXPECTED_AUROC[way].items()}
        accuracy, wrong, mse = psenn.EXPECTED_ACCURACY[way] - off, psenn.EXPECTED_WRONG[way], psenn.EXPECTED_MSE[way]
        spread = (0.7, 0.7) if off else psenn.EXPECTED_EPISTEMIC[way]
        for seed in psenn.SEEDS:
            gallery = [[[0.0] * 64] * 3] * 8 if seed == 0 else []
            found.append(psenn.Judged(way, seed, accuracy, aurocs, wrong, spread, mse, 0.989, gallery))
    return found


def of_unlearnable(worse: bool) -> list[Any]:
    """Attacks with the expected effect, or without any, which move pixels too far."""
    found = []
    for way, (before, after, protected, mixed) in unlearnable.EXPECTED.items():
        start = 0.043 if before is None else before
        errors = [start, start if worse or after is None else after]
        change, accuracy = unlearnable.EPS[way] * (1 + worse), 0.965 if worse else protected
        for seed in unlearnable.SEEDS:
            found.append(unlearnable.Attack(way, seed, change, errors, None, 0.965, 0.962, accuracy, mixed))
    return found


def of_noprop(worse: bool) -> list[Any]:
    """Classifiers at the expected accuracies; or with NoProp-DT as poor as NoProp-CT, and memory that is swapped."""
    accuracies = noprop.EXPECTED | {noprop.LINEAR: 0.95} | ({noprop.DT: noprop.EXPECTED[noprop.CT]} if worse else {})
    growth = {noprop.ONE_BLOCK: worse, noprop.CHAIN: not worse}
    return [
        *(noprop.Trained("digits", way, seed, 60, [value] * 3) for way, value in accuracies.items() for seed in (0, 1)),
        *(noprop.Kept(way, n, 1000 * (n if grows else 1)) for way, grows in growth.items() for n in noprop.DEPTHS),
    ]


def of_counter_current(worse: bool) -> list[Any]:
    """Networks at the expected accuracies, or local rules at half of back-propagation and memory that is kept."""
    found: list[Any] = []
    for (source, rule), values in counter.EXPECTED.items():
        for seed, value in enumerate(values):
            accuracy = value / 2 if worse and rule == counter.CODE else value
            alike = [0.05, 0.5] if "counter" in rule else []
            found.append(counter.Trained(source, rule, seed, accuracy, [0.5, accuracy], alike, alike))
    sizes = {counter.CLOSED: 100 * worse}
    return found + [
        counter.Kept(form, depth, sizes.get(form, 1000 * depth)) for form in counter.FORMS for depth in counter.DEPTHS
    ]


def of_forward_gnn(worse: bool) -> list[Any]:
    """Networks at the expected figures, or layers that learn nothing, and memory that grows with the wrong way."""
    found: list[Any] = []
    for data, splits in forward_gnn.SPLITS.items():
        for split in splits:
            for place, depth in enumerate(forward_gnn.DEPTHS):
                forward, backward = (
                    forward_gnn.EXPECTED[forward_gnn.CORA_ML, way][place] for way in (forward_gnn.SF, forward_gnn.BP)
                )
                values = (30.0, backward + 20) if worse else (forward, backward)
                for way, value in zip((forward_gnn.SF, forward_gnn.BP), values, strict=True):
                    found.append(forward_gnn.Trained(data, split, way, depth, value))
            found.append(forward_gnn.Trained(data, split, forward_gnn.LINEAR, 1, 55.0))
    for depth in forward_gnn.MEMORY_DEPTHS:
        growing = 1000 * depth
        kept = (growing, 1000) if worse else (1000, growing)
        ways = zip((forward_gnn.SF, forward_gnn.BP), kept, strict=True)
        found += [forward_gnn.Memory(way, depth, count) for way, count in ways]
    return found


def of_stochastic_neurons(worse: bool) -> list[Any]:
    """Networks at the expected accuracies, or with gates that are mostly on and no better than a linear model."""
    found = []
    for (task, unit), accuracies in neurons.EXPECTED.items():
        noiseless = unit in (neurons.RELU, neurons.LINEAR)
        for seed, accuracy in enumerate(accuracies):
            value = accuracy - 0.1 * (worse and not noiseless)
            active = 0.1 + 0.4 * worse
            found.append(neurons.Trained(task, unit, seed, value, active, 0.01, [0.7, 0.8, value]))
    return [*found, neurons.Trained(neurons.MNIST, neurons.ST, 0, 0.98, 0.1, 0.003, [0.97, 0.98])]


def of_scale_mixture_nngp(worse: bool) -> list[Any]:
    """Splits at the expected losses, or with mixtures that lose to a fixed scale, and one more than the other."""
    found = []
    for n, expected in mixtures.EXPECTED.items():
        for split in mixtures.SPLITS:
            nll = {family: loss + 0.01 * (split - 3.5) for family, loss in expected.items()}
            nll[mixtures.GAMMA] += 0.5 * worse
            nll[mixtures.BURR] += 0.9 * worse
            found.append(mixtures.Compared(mixtures.DIABETES, n, split, nll, 1.4, 55.0))
    nll = dict.fromkeys(mixtures.FAMILIES, 1.0)
    return [*found, *(mixtures.Compared("yacht", 250, split, nll, 0.3, 0.9) for split in (0, 1))]


def of_sequential_bayes(worse: bool) -> list[Any]:
    """Streams and learners at the expected accuracies, or a filter that forgets nothing and ProtoCL that does."""
    found: list[Any] = []
    for seed in sequential.SEEDS:
        current, last = sequential.EXPECTED_CURRENT, sequential.EXPECTED_STREAM[sequential.SEQUENTIAL]
        rows = [[0.8 - 0.1 * seed] * t + [0.9 if worse else current[t]] for t in range(4)] + [
            [0.9] * 5 if worse else last
        ]
        joint = [0.6] * 5 if worse else sequential.EXPECTED_STREAM[sequential.JOINT]
        found.append(sequential.Stream(sequential.SEQUENTIAL, 500, seed, rows, [1] * 5))
        found.append(sequential.Stream(sequential.JOINT, 500, seed, [joint], [1]))
        for (way, memory), value in sequential.EXPECTED.items():
            other = 1 - value if worse else value
            found.append(sequential.Learned(sequential.DIGITS, way, memory, seed, [1.0, 0.9, 0.9, 0.9, other]))
    return [*found, sequential.Learned(sequential.FASHION, sequential.REPLAY, 1000, 0, [0.9] * 5)]


def of_deep_kernel_machines(worse: bool) -> list[Any]:
    """Machines at the expected figures, or worse ones for smaller nu and than linear regression."""
    found: list[Any] = []
    for seed, figures in dkm.EXPECTED.items():
        for place, (nu, (accuracy, nll)) in enumerate(figures.items()):
            found.append(dkm.Classified(nu, seed, accuracy - 0.1 * place * worse, nll + place * worse))
    for table, rmse in dkm.LEAST_SQUARES.items():
        found += [dkm.Regressed(table, 0, nu, rmse * (1.1 if worse else 0.7), 1.0) for nu in (dkm.NNGP, 1.0)]
    return found


def of_functional_prior(worse: bool) -> list[Any]:
    """Fits and posteriors at the expected figures, or a fit that changes nothing and leads to a bad posterior."""
    before, after = functional.EXPECTED_ENERGY
    line, found = [-1.0, 0.0, 1.0], []
    for data in (functional.TOY, functional.BOSTON):
        distances = [{"energy": value, "sliced_w1": 0.2, "w1": 0.1} for value in (before, before if worse else after)]
        found.append(functional.Matched(data, 0, [13.0, 3.0], [(0, before), (2, after)], *distances, {"0.weight": 3.0}))
    for (data, prior), (rmse, nll) in functional.EXPECTED.items():
        off = 3.0 * (worse and prior == functional.FITTED)
        found.append(functional.Judged(data, 0, 0, prior, rmse + off, nll + off, 1.1, (line, [0.1, 0.2, 0.1])))
    return [*found, functional.Drawn(0, 0, [0.5], [0.2], line, line)]


def of_permutation_ntk(worse: bool) -> list[Any]:
    """Networks and draws at the expected figures, or of which single ones are right and means are not."""
    found: list[Any] = []
    for (way, k), (one, zero, variance) in permutations.EXPECTED.items():
        probability = {n: success_probability(k, 2, n, permutations.KINDS[way]) for n in (*permutations.COUNTS, 400)}
        exact = {n: 1 - p for n, p in probability.items()} if worse else probability
        figures = (one + 0.1 * worse, zero, variance * (1 + worse), exact)
        found.append(permutations.Trained(way, k, 2048, 400, 0, *figures))
    for k in permutations.LARGE:
        one_input, every = int(200 * k * math.log(k)), 16 * k**2
        sizes = (one_input * k, every * k) if worse else (one_input, every)
        found.append(permutations.Drawn(k, 30 * k, 0.5 if worse else 0.9, *sizes))
    return found


MADE_UP = {
    name.removeprefix("of_"): function
    for names in (dict(globals()), vars(made_up_rooms), vars(made_up_survey))
    for name, function in names.items()
    if name.startswith("of_")
}

"""Prior-fitted networks: a transformer that maps a data set and new inputs to predictive distributions."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .._core import checks, files
from .._core.errors import CorruptStreamError, message
from .._core.registry import numbers_known
from ._transformer import SetTransformer
from .pfn_heads import HEADS, PFNHead, rebuilt
from .set_attention import ContextCache, check_counts

NORMALIZATIONS = (None, "uniform", "context")
FORMAT = "probkernels.pfn"


class PFN(nn.Module):
    """A transformer trained on data sets of a prior, so that one pass gives the posterior predictive distribution.

    A context (x, y) is the token W x + V y, a query the token W x; there are no positions, so the order of contexts
    does not matter. Layers are post-norm with GELU and start as norms alone. Each query sees the contexts and itself:
    m queries in one call give what m calls give. Train it with :func:`fit_prior`.

    Args:
        n_features: F, numbers in an input; 0 for data without inputs.
        head: what the outputs mean: :class:`BarHead`, :class:`GaussianHead`, :class:`ClassHead`,
            :class:`BernoulliHead`, or a :class:`PFNHead` of your own.
        d: width.
        layers: number of layers.
        heads: attention heads, a divisor of ``d``.
        d_ff: width of the feed-forward networks; None for 2 d.
        dropout: share that is dropped in training.
        normalize_x: None; "uniform": (x - 1/2) sqrt(12), for inputs uniform on [0, 1]; "context": every data set is
            standardized with means and standard deviations of its contexts.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Reference: Muller et al., "Transformers Can Do Bayesian Inference", ICLR 2022.

    Example:
        >>> import torch
        >>> from probkernels.amortized import PFN, GaussianHead
        >>> model = PFN(2, GaussianHead(), d=16, layers=2)
        >>> x, y, new = torch.rand(3, 5, 2), torch.rand(3, 5), torch.rand(3, 7, 2)
        >>> found = model(x, y, new)
        >>> found.mean.shape
        torch.Size([3, 7])
        >>> cache = model.condition(x, y)
        >>> torch.allclose(model.query(cache, new).mean, found.mean, atol=1e-6)
        True
    """

    def __init__(
        self,
        n_features: int,
        head: PFNHead,
        *,
        d: int = 64,
        layers: int = 4,
        heads: int = 4,
        d_ff: int | None = None,
        dropout: float = 0.0,
        normalize_x: str | None = None,
    ) -> None:
        super().__init__()
        checks.integer("PFN", "n_features", n_features, 0)
        for name, value in (("d", d), ("layers", layers), ("heads", heads)):
            checks.integer("PFN", name, value)
        d_ff = 2 * d if d_ff is None else checks.integer("PFN", "d_ff", d_ff)
        if not isinstance(head, PFNHead):
            raise TypeError(message("PFN", "head", "a PFNHead", checks.describe(head), "GaussianHead()"))
        if d % heads:
            raise ValueError(message("PFN", "heads", f"a divisor of d = {d}", str(heads)))
        checks.fraction("PFN", "dropout", dropout)
        checks.one_of("PFN", "normalize_x", normalize_x, NORMALIZATIONS)
        self.n_features, self.normalize_x = n_features, normalize_x
        self.config: dict[str, Any] = {"n_features": n_features, "d": d, "layers": layers, "heads": heads, "d_ff": d_ff}
        self.config |= {"dropout": dropout, "normalize_x": normalize_x}
        with warnings.catch_warnings():  # torch warns of a layer without inputs
            warnings.simplefilter("ignore", UserWarning)
            self.of_x = nn.Linear(n_features, d)
        self.of_y = nn.Linear(head.n_code, d)
        if not n_features:
            nn.init.normal_(self.of_x.bias)  # the learned token of a query
        self.body = SetTransformer(d, layers, heads, d_ff, dropout)
        self.readout = nn.Sequential(nn.Linear(d, d_ff), nn.GELU(), nn.Linear(d_ff, head.n_out))
        self.head = head

    def forward(self, x: Tensor, y: Tensor, x_query: Tensor, *, counts: Tensor | None = None) -> Distribution:
        """Predictive distributions of the targets at ``x_query``.

        Args:
            x: (B, n, F) inputs of the contexts, n >= 0.
            y: (B, n) their targets: numbers, or classes for heads of classes.
            x_query: (B, m, F).
            counts: (B,) numbers of contexts in each row; what follows them in x and y is padding, which may hold
                anything. None for n in every row.

        Returns:
            A distribution with batch shape (B, m).

        Raises:
            TypeError: an argument is no tensor, or of the wrong dtype.
            ValueError: a shape is wrong, or a number is not finite or no class.
        """
        contexts, facts = self._contexts("PFN", x, y, counts)
        return self._read(self.body(contexts, self._queries("PFN", x_query, len(x), facts), counts))

    def condition(self, x: Tensor, y: Tensor, *, counts: Tensor | None = None) -> ContextCache:
        """What :meth:`query` needs of contexts; arguments as in :meth:`forward`."""
        contexts, facts = self._contexts("PFN.condition", x, y, counts)
        return replace(self.body.condition(contexts, counts), facts=facts)

    def query(self, cache: ContextCache, x_query: Tensor) -> Distribution:
        """Predictive distributions at ``x_query`` (B, m, F), given a cache of :meth:`condition`.

        The time of a query is linear in the number of contexts, and the contexts are not computed again.
        """
        op = "PFN.query"
        if not isinstance(cache, ContextCache):
            raise TypeError(message(op, "cache", "a ContextCache", checks.describe(cache), "model.condition(x, y)"))
        if len(cache.keys) != len(self.body.layers):
            got = f"one of {len(cache.keys)} layers"
            raise ValueError(message(op, "cache", f"a cache of {len(self.body.layers)} layers", got))
        normalized = self.normalize_x == "context"
        if normalized is not bool(cache.facts):
            expected = f"a cache {'with' if normalized else 'without'} statistics of the contexts, as normalize_x says"
            raise ValueError(message(op, "cache", expected, "one of another model", "model.condition(x, y)"))
        return self._read(self.body.query(self._queries(op, x_query, len(cache.keys[0]), cache.facts), cache))

    # --- tokens and outputs ---

    def _contexts(self, op: str, x: Tensor, y: Tensor, counts: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        x, there = self._inputs(op, "x", x), None
        if not isinstance(y, Tensor):
            raise TypeError(message(op, "y", "a tensor", checks.describe(y), checks.AS_TENSOR))
        checks.shape(op, "y", y, x.shape[:2], "of the contexts in 'x'")
        checks.same_device(op, "y", y, x, "x")
        if y.is_complex() or not (self.head.discrete or y.is_floating_point()):
            raise TypeError(message(op, "y", "floating-point targets", str(y.dtype), "y.float()"))
        if counts is not None:
            check_counts(op, "counts", counts, x, x.shape[1])
            there = torch.arange(x.shape[1], device=x.device) < counts[:, None]
            x, y = torch.where(there[..., None], x, 0), torch.where(there, y, 0)
        if numbers_known(x, y):
            checks.finite(op, "x", x, "fill in missing values first")
            checks.finite(op, "y", y, "a context needs a target; leave out those without")
            self.head.check(op, "y", y if there is None else y[there])
        facts = self._statistics(x, there)
        return self.of_x(self._normalized(x, facts)) + self.of_y(self.head.code(y, x.dtype)), facts

    def _queries(self, op: str, x: Tensor, batch: int, facts: dict[str, Tensor]) -> Tensor:
        x = self._inputs(op, "x_query", x)
        if len(x) != batch:
            raise ValueError(message(op, "x_query", f"{batch} rows like the contexts", str(len(x))))
        if numbers_known(x):
            checks.finite(op, "x_query", x, "fill in missing values first")
        return self.of_x(self._normalized(x, facts))

    def _inputs(self, op: str, name: str, x: Tensor) -> Tensor:
        checks.float_tensor(op, name, x, checks.AS_TENSOR)
        if x.ndim != 3 or x.shape[-1] != self.n_features:
            hint = "x[None] adds the dimension of data sets" if x.ndim == 2 else ""
            if x.ndim == 3 and x.shape[-1] < self.n_features:  # never silently: not every prior has such columns
                pad = f"torch.nn.functional.pad({name}, (0, {self.n_features - x.shape[-1]}))"
                hint = f"{pad} adds columns of zeros, where the prior had them as TabularBNNPrior has"
            wanted = f"shape (B, number of points, {self.n_features})"
            raise ValueError(message(op, name, wanted, f"shape {tuple(x.shape)}", hint))
        checks.same_device(op, name, x, self.of_x.bias, "the model's parameters")
        if x.dtype != self.of_x.bias.dtype:
            hint = f"x.to({self.of_x.bias.dtype}), or model.to({x.dtype})"
            raise TypeError(message(op, name, f"dtype {self.of_x.bias.dtype} of the model", str(x.dtype), hint))
        return x

    def _statistics(self, x: Tensor, there: Tensor | None) -> dict[str, Tensor]:
        """Means and standard deviations (B, 1, F) of contexts; those of none, or of equal ones, change nothing."""
        if self.normalize_x != "context":
            return {}
        weight = x.new_ones(*x.shape[:2], 1) if there is None else there[..., None].to(x.dtype)
        count = weight.sum(1, keepdim=True).clamp_min(1)
        mean = (x * weight).sum(1, keepdim=True) / count
        spread = (((x - mean) * weight).square().sum(1, keepdim=True) / count).sqrt()
        noise = 10 * torch.finfo(x.dtype).eps * mean.abs()
        return {"mean": mean, "spread": torch.where(spread > noise, spread, 1.0)}

    def _normalized(self, x: Tensor, facts: dict[str, Tensor]) -> Tensor:
        if self.normalize_x == "uniform":
            return (x - 0.5) * math.sqrt(12)
        return (x - facts["mean"]) / facts["spread"] if facts else x

    def _read(self, h: Tensor) -> Distribution:
        found = self.head(self.readout(h))
        assert isinstance(found, Distribution)
        return found

    # --- files ---

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes a safetensors file, atomically.

        Args:
            path: path of the file.
            overwrite: whether an existing file is replaced.

        Raises:
            FileExistsError: the file exists.
            TypeError: the head is of your own class: save ``state_dict()`` instead.
        """
        kinds = [kind for kind, head in HEADS.items() if type(self.head) is head]
        if not kinds:
            hint = "save model.state_dict(), and build the model yourself"
            raise TypeError(message("PFN.save", "head", "a head of this library", checks.describe(self.head), hint))
        if not overwrite and Path(path).exists():
            raise FileExistsError(
                message("PFN.save", "path", "a new file", f"'{path}', which exists", "overwrite=True")
            )
        config = {"model": self.config, "head": kinds[0], "settings": self.head.settings()}
        files.write(path, self.state_dict(), {"format": FORMAT, "version": "1", "config": json.dumps(config)})

    @classmethod
    def load(cls, path: str | Path) -> PFN:
        """Reads a file that :meth:`save` wrote: a model on the CPU, in evaluation mode.

        Raises:
            CorruptStreamError: the file is damaged or no such model.
        """
        tensors, metadata = files.read(path)
        if metadata.get("format") != FORMAT or metadata.get("version") != "1":
            raise CorruptStreamError(f"'{path}': not a PFN of this library, or of a later version of it")
        try:
            config = json.loads(metadata["config"])
            if config["model"]["layers"] > len(tensors):
                raise ValueError("more layers than tensors")
            with torch.device("meta"):
                model = cls(head=rebuilt(config["head"], config["settings"]), **config["model"])
            model.load_state_dict(tensors, assign=True)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CorruptStreamError(f"'{path}': {error}") from None
        return model.eval()

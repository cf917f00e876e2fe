"""Samplers as general linear methods: those of ``table``, and those with several calls or states per step."""

from .build import SOLVERS
from .scheme import Scheme

__all__ = ["SOLVERS", "Scheme"]

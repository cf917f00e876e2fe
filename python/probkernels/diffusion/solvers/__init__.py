"""Samplers as linear programs: those of the coefficient table, and those that do not fit one call a step."""

from .build import SOLVERS
from .scheme import Scheme

__all__ = ["SOLVERS", "Scheme"]

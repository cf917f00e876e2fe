"""Inverse problems: operators, guidance of diffusion samplers, learned proximal networks."""

__all__: list[str] = []

"""Energy-based models: monotone Boltzmann machines and their fixed points."""

__all__: list[str] = []

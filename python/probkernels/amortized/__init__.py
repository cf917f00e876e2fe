"""Networks that answer Bayesian questions in one pass: prior-fitted networks and neural processes."""

__all__: list[str] = []

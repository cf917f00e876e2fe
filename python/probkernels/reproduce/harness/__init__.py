"""Code that all reproductions share: protocol, workers, data, shared models, plot style and report."""

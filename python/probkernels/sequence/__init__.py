"""Models of sequences: any-order prediction with extraction of structure, variational recurrent networks."""

__all__: list[str] = []

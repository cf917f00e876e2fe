"""The ground every op stands on: registration, backend choice, argument checks, errors and native loading."""

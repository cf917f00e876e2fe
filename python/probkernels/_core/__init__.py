"""What every op is built on: registration, backend choice, argument checks, errors and loading of the native module."""

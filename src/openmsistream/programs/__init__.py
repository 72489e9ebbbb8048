"""The classes users meet: choose adapters, give them to a pipeline."""

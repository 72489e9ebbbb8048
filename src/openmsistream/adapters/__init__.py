"""One folder per outside thing; each maps that thing's errors to ours, once."""

"""The wire formats: turn chunks into record values and back."""

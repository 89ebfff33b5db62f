"""A model as a MONAI bundle, with its card."""

"""Fixtures that several rooms share."""

from compression_fixtures import blocks, updates  # noqa: F401

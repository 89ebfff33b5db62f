"""Fixtures that several rooms share."""

from hospital_fixtures import _no_variables  # noqa: F401

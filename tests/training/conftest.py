"""Fixtures that several rooms share."""

from hospital_fixtures import _no_variables, cohorts, opened, settings, site  # noqa: F401

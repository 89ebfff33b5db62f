"""Fixtures that several rooms share."""

from jobs_fixtures import _no_environment, _one_thread  # noqa: F401

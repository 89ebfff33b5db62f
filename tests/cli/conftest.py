"""Fixtures that several rooms share."""

from jobs_fixtures import _no_environment, _one_thread, hospitals, run, tiny  # noqa: F401

"""Fixtures that several rooms share."""

from privacy_fixtures import _no_waiting_for_the_disk  # noqa: F401

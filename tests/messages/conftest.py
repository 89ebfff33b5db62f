"""Fixtures that several rooms share."""

from privacy_fixtures import _no_waiting_for_the_disk, authority, identity, impostor, kits  # noqa: F401

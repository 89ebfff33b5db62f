"""Fixtures that several rooms share."""

from privacy_fixtures import (  # noqa: F401
    _no_waiting_for_the_disk,
    authority,
    going_on,
    hall,
    identity,
    impostor,
    initial,
    kits,
    promise,
    updates,
)

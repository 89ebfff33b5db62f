"""Fixtures that several rooms share."""

from hospital_fixtures import _no_variables  # noqa: F401
from jobs_fixtures import _no_environment, _one_thread  # noqa: F401
from privacy_fixtures import _no_waiting_for_the_disk  # noqa: F401

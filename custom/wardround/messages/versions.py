"""Whether every party of a run has the same version of wardround."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wardround import __version__
from wardround.core.errors import ConfigRefused


def require_version(site: str, facts: Mapping[str, Any]) -> None:
    """Raise ConfigRefused unless a site runs this version.

    Another version may train, round or count in another way.

    facts: what the site says of itself; its `version` is compared.
    """
    if facts["version"] != __version__:
        raise ConfigRefused(
            f"the wardround package of {site}",
            found=f"version {facts['version']}",
            expected=f"version {__version__}, as at the server",
            fix=f"install at {site} the version in the job's app/custom/requirements.txt, and start its site again",
        )

"""Floor 3: how an update is hidden. Pure mechanisms and protocols; nothing here knows NVFlare or the algorithms."""

"""Floor 5: the doors to NVFlare. wire.py and sealed.py say which messages exist, outbound_filter.py is the one way out."""

"""Phantoms: synthetic patients, scanners and hospitals. No person was scanned for them."""

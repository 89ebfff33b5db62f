"""From app_configs/ to job folders, and what a run leaves behind."""

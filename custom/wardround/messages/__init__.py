"""What may leave a site, as one schema."""

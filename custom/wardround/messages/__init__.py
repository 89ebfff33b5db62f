"""What may leave a site, as one schema, and who signed it."""

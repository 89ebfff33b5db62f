"""Floor 6: recipes that print the job folders, and the command line."""

"""How many bytes of an update leave a site? Each compression is a stage."""

"""What every room stands on: arrays, errors, files, random numbers, validation. It imports no other room."""

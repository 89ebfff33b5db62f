"""What every room stands on: arrays, errors, files, random numbers and validation.

It imports no other room.
"""

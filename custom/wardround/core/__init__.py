"""What every room stands on: the words in which a round is described. It imports no other room."""

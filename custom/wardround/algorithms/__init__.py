"""Floor 3: federated algorithms as frozen values: one local function each, and the server's rules."""

"""What a hospital or the server sets up and checks before its first job."""

"""Settings: read, laid over one another, checked before anything is built."""

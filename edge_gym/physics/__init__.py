"""Radio and processors."""

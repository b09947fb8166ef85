"""Running, comparing and tuning policies."""

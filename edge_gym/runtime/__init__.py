"""Files, processes, threads, messages: what has nothing to do with learning or radio."""

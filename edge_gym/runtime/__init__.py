"""Files, processes, threads, random numbers: what has nothing to do with learning or radio."""

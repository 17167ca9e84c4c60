"""pcapng blocks out: C functions only."""

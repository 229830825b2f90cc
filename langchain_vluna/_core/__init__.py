"""Rules without effects: no network, disk, clock, threads or randomness."""

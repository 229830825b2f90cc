"""The crash matrix: a process is killed at each named point, and the ledger must still add up."""

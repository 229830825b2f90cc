"""The rules of the local gate: what the server would answer, decided on values that are handed in.

No clock, no disk, no randomness: the caller reads what a request needs, asks here, and writes what comes back.
`bodies` reads requests, `admission` decides about authorize, `settlement` about commit and ingest with
`pricing`, `answers` puts results into words; `model` has the values they share.
"""

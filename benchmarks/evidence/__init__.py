"""The ledger of studies: what each chose, answered and lost, kept as small files that are added to."""

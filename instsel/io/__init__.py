"""Files: folders behind a path or URI, atomic writes, retries, digests."""

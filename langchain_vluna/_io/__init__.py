"""Everything that blocks: HTTP, disk, threads."""

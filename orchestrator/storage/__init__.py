"""Where bytes lie: folders and buckets, atomic writes, locks, leases, addresses."""

"""The steps of the lifecycle: each reads files, calls the pure parts, writes files, and tracks what it did."""

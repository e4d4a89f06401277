"""The ClickHouse and audit sinks: workers that carry the log into its destinations."""

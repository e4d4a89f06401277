"""Apache Kafka, ClickHouse and every worker of meterproof on one machine."""

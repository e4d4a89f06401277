"""The seam to Kafka: the only place that knows the client library.

Nothing is imported here, so that `meterproof.kafka.settings` loads without the client library.
"""

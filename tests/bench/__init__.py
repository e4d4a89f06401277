"""How fast the parts are, each as a real process on real Kafka; see README.md for the method."""

"""The one door to confluent-kafka. Empty as yet: the ports that it will implement stand in `contract`."""

"""The NATS JetStream store."""

"""NATS: endpoints, the control connection, the job queue, presence, and the bulk lane that moves KV."""

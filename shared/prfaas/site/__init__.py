"""The description of a deployment, and what is made from it: keys, certificates, permissions, nats-server configuration."""

"""Parts that prfaas' services share: messages, the KV plane, engines, capacity, and what every process has."""

__version__ = "0.1.0"

"""The queue of a site's prefill workers: pure, events in and instructions out."""

"""What every process has: typed configuration, supervision, health and metrics over HTTP, drain on SIGTERM."""

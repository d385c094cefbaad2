"""Parts of every process: typed configuration, supervision, health and metrics over HTTP, drain on SIGTERM."""

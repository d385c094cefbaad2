"""Tools that an operator watches a deployment with: Prometheus, its alerts, a Grafana dashboard, a Collector."""

"""What Zeitwork measures of itself, for Prometheus. Every metric is described in `zeitwork.metrics.catalogue`."""

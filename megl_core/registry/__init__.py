"""MLflow: tracking, the model registry, the champion gate and stages."""

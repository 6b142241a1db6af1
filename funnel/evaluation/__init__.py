"""What a run is evaluated on: metrics, baselines, pictures, the verdict."""

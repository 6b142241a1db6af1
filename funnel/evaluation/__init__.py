"""What a run is judged by: metrics, baselines, pictures, the verdict."""

"""One function a step of the pipeline: files in, one call into a package, files out."""

"""Files on disk: the .lic format, model files, and weights of other projects."""

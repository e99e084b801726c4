"""What runs the workers: processes of this machine, a dask or a ray cluster."""

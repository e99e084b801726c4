"""What runs the workers: processes of this machine (loky), a dask cluster or a ray cluster."""

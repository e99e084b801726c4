"""Executors, which run the workers: processes on this machine (loky), a dask cluster or a ray cluster."""

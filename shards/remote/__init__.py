"""A spool in object storage: bucket, lease, uploader, downloader."""

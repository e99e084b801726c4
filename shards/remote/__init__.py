"""The same spool through object storage: bucket, lease, uploader, downloader."""

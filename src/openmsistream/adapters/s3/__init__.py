"""S3 object stores as a destination: everything that talks to one, and what is kept here of unfinished uploads."""

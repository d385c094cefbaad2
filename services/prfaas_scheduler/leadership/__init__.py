"""Leadership of one among a site's schedulers: a lease in the site's bucket, and who takes it over."""

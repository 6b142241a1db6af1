"""Raw tables: read, checked, cleaned, ingested; `formats` has one file a published layout."""

-- SHA-256 of the object of an image, whose metadata was removed. NULL: an earlier release stored the
-- image as it was sent.
ALTER TABLE feedback.images
    ADD COLUMN stored_sha256 bytea CHECK (octet_length(stored_sha256) = 32);

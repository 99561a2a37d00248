-- Who has sent an image with a label, for callers that may read only what they sent or lease. Written
-- only where callers show tokens.
CREATE TABLE feedback.image_uploads (
    sha256   bytea NOT NULL REFERENCES feedback.images ON DELETE CASCADE,
    uploader text NOT NULL CHECK (length(uploader) BETWEEN 1 AND 128),
    PRIMARY KEY (sha256, uploader)
);

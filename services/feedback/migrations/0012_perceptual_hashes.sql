-- A hash that differs in few bits for near-identical pictures, so that these are noticed when they
-- arrive. Images that are stored already have none. It goes with the row of its image.
ALTER TABLE feedback.images ADD COLUMN perceptual_hash bit(256);

-- The hash in 16 parts, numbered, so that an index finds those with a part in common.
CREATE FUNCTION feedback.hash_bands(hash bit(256)) RETURNS integer[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ARRAY(
    SELECT (part << 16) | substring(hash FROM part * 16 + 1 FOR 16)::bit(16)::integer
    FROM generate_series(0, 15) AS part
);

CREATE INDEX images_hash_bands ON feedback.images USING gin (feedback.hash_bands(perceptual_hash));

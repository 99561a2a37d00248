-- Which face of an image is meant, where it shows several: x, y, width and height of a box in
-- pixels. NULL for the most prominent face, as for all images that are stored already.
ALTER TABLE feedback.images ADD COLUMN box double precision[]
    CHECK (box IS NULL OR alignment = 'detect')
    CHECK (cardinality(box) = 4)
    CHECK (box[3] > 0 AND box[4] > 0);

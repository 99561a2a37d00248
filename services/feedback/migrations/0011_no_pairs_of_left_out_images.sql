-- Images that the embedder refused are in no pair to label. Rows of images that a later version
-- embedded were kept so far.
DELETE FROM feedback.unembeddable
WHERE EXISTS (SELECT FROM feedback.embeddings WHERE embeddings.sha256 = unembeddable.sha256);
DELETE FROM feedback.candidates
WHERE EXISTS (SELECT FROM feedback.unembeddable WHERE sha256 IN (image_a, image_b));

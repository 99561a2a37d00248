-- Who had copies of the images when their rows were deleted, and has not ended since; NULL until
-- that was asked.
ALTER TABLE feedback.erasures ADD COLUMN copy_holders text[];

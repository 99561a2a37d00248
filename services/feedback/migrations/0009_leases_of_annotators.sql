-- For the leases that an annotator holds.
CREATE INDEX leases_held ON feedback.leases (annotator, lease_id) WHERE answered IS NULL;

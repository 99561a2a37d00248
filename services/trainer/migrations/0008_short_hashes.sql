-- Messages of jobs name images by the first digits of their hash, because an erasure does not
-- change them.
UPDATE trainer.jobs
SET message = regexp_replace(message, '\m([0-9a-f]{8})[0-9a-f]{56}\M', '\1…', 'gi')
WHERE message ~* '\m[0-9a-f]{64}\M';
UPDATE trainer.job_events
SET message = regexp_replace(message, '\m([0-9a-f]{8})[0-9a-f]{56}\M', '\1…', 'gi')
WHERE message ~* '\m[0-9a-f]{64}\M';

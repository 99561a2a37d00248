-- The version that a job works on whose spec names none: the one that served when its work began.
ALTER TABLE trainer.jobs ADD COLUMN base_version text REFERENCES trainer.versions;

-- Since when the job has got no further because something that it needs cannot be reached, and
-- the largest progress of all its attempts.
ALTER TABLE trainer.jobs ADD COLUMN blocked_since timestamptz;
ALTER TABLE trainer.jobs ADD COLUMN furthest double precision NOT NULL DEFAULT 0;

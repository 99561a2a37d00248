-- Stages that a job has entered, oldest first: [{"stage": "queued", "started_at": "..."}, ...].
-- Jobs from before this migration start with none.
ALTER TABLE trainer.jobs ADD COLUMN stages jsonb NOT NULL DEFAULT '[]';
ALTER TABLE trainer.jobs ALTER COLUMN stages SET DEFAULT
    jsonb_build_array(jsonb_build_object('stage', 'queued', 'started_at', now()));

-- How many of the job's stages it had entered by the event; the last of them is its stage then.
ALTER TABLE trainer.job_events ADD COLUMN stages_entered integer NOT NULL DEFAULT 0;

-- Finds the latest finished training, whose report lists suspect labels.
CREATE INDEX jobs_finished_trainings ON trainer.jobs (ended_at)
    WHERE kind = 'train' AND state = 'succeeded';

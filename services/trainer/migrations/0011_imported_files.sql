-- A file that is imported again is the version that it is already.
CREATE INDEX jobs_by_upload ON trainer.jobs ((spec ->> 'upload')) WHERE kind = 'import';

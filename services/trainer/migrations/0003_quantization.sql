ALTER TABLE trainer.jobs
    DROP CONSTRAINT jobs_kind_check,
    ADD CONSTRAINT jobs_kind_check CHECK (kind IN ('train', 'import', 'evaluate', 'quantize'));

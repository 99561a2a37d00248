ALTER TABLE trainer.jobs
    DROP CONSTRAINT jobs_kind_check,
    ADD CONSTRAINT jobs_kind_check
        CHECK (kind IN ('train', 'import', 'evaluate', 'quantize', 'judge'));

-- All verdicts on versions; the latest of a version is in its row as well.
CREATE TABLE trainer.verdicts (
    seq           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_version text NOT NULL REFERENCES trainer.versions,
    job_id        uuid NOT NULL REFERENCES trainer.jobs,
    gate          jsonb NOT NULL,
    at            timestamptz NOT NULL DEFAULT now()
);

INSERT INTO trainer.verdicts (model_version, job_id, gate)
SELECT model_version, job_id, gate FROM trainer.versions WHERE gate IS NOT NULL ORDER BY seq;

ALTER TABLE trainer.jobs
    DROP CONSTRAINT jobs_kind_check,
    ADD CONSTRAINT jobs_kind_check CHECK (kind IN ('train', 'import', 'evaluate'));

-- What was measured of a version, by the job that did. The page that shows it is an object.
CREATE TABLE trainer.evaluations (
    job_id        uuid PRIMARY KEY REFERENCES trainer.jobs,
    seq           bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    model_version text NOT NULL REFERENCES trainer.versions,
    at            timestamptz NOT NULL DEFAULT now(),
    result        jsonb NOT NULL
);

CREATE INDEX evaluations_of_version ON trainer.evaluations (model_version, seq);

-- Consensus is derived by majority only. The trainer estimates the reliability of annotators from
-- the votes that an export holds.

-- By which rule pair_consensus was derived. 'weighted' makes the next start derive it anew.
ALTER TABLE feedback.consensus_rule
    ADD COLUMN derived_by text NOT NULL DEFAULT 'majority'
        CHECK (derived_by IN ('majority', 'weighted'));

-- New weights judged labels before consensus_rule named them, so any stored weights may have
-- judged some pairs.
UPDATE feedback.consensus_rule SET derived_by = 'weighted'
WHERE weighting_id IS NOT NULL OR EXISTS (SELECT FROM feedback.weightings);

-- Exports of snapshots that were judged by weights are judged by majority from now on.
ALTER TABLE feedback.snapshots DROP COLUMN weighting_id;
ALTER TABLE feedback.consensus_rule DROP COLUMN weighting_id;
DROP TABLE feedback.annotator_weights;
DROP TABLE feedback.weightings;

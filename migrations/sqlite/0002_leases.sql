-- Who may do the work that must not be done twice, until when, by this machine's clock. The epoch rises with every change
-- of hands, so that a holder that was frozen can be told from itself before.
CREATE TABLE leases (
    name   TEXT    NOT NULL PRIMARY KEY,
    holder TEXT    NOT NULL,
    epoch  INTEGER NOT NULL,
    until  TEXT    NOT NULL,

    CONSTRAINT epoch_counts_from_one CHECK (epoch >= 1),
    CONSTRAINT until_is_of_fixed_width CHECK (length(until) = 24)
) STRICT;

-- By which retention: the entries of one policy, oldest first; and which policies there are.
CREATE INDEX audit_entries_policy ON audit_entries (policy, id);

-- How many entries of each policy the last purge removed: a JSON object.
ALTER TABLE job_runs ADD COLUMN removed TEXT NOT NULL DEFAULT '{}';

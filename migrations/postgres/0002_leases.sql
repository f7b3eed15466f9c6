-- An index is made in one go, however long the table is: nobody is served by one that was cut off.
SET LOCAL statement_timeout = 0;

-- Who may do the work that must not be done twice, until when, by this server's clock. The epoch rises with every change
-- of hands, so that a holder that was frozen can be told from itself before.
CREATE TABLE leases (
    name   text        NOT NULL CONSTRAINT leases_pkey PRIMARY KEY,
    holder text        NOT NULL,
    epoch  bigint      NOT NULL,
    until  timestamptz NOT NULL,

    CONSTRAINT epoch_counts_from_one CHECK (epoch >= 1)
);

-- By which retention: the entries of one policy, oldest first; and which policies there are.
CREATE INDEX audit_entries_policy ON audit_entries (policy, id);

-- How many entries of each policy the last purge removed: a JSON object.
ALTER TABLE job_runs ADD COLUMN removed text NOT NULL DEFAULT '{}';

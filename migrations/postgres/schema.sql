CREATE TABLE audit_entries (
    id uuid NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    action text COLLATE "C" NOT NULL,
    resource text COLLATE "C" NOT NULL,
    resource_name text COLLATE "C" NOT NULL,
    cluster text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    status_code integer NOT NULL,
    detail jsonb NOT NULL,
    ip text COLLATE "C" NOT NULL,
    "timestamp" timestamp with time zone NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    evidence text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    audit_id text COLLATE "C" NOT NULL,
    real_user text COLLATE "C" NOT NULL,
    user_agent text COLLATE "C" NOT NULL,
    api_group text COLLATE "C" NOT NULL,
    object_uid text COLLATE "C" NOT NULL,
    before_hash bigint,
    after_hash bigint,
    policy text COLLATE "C" NOT NULL,
    "position" bigint NOT NULL,
    CONSTRAINT action_is_known CHECK ((action = ANY (ARRAY['create'::text, 'update'::text, 'delete'::text, 'start'::text, 'end'::text, 'login'::text, 'logout'::text, 'authenticate'::text, 'enable'::text, 'disable'::text, 'revoke'::text, 'add'::text, 'remove'::text, 'purge'::text, 'gap'::text, 'export'::text, 'get'::text, 'list'::text, 'watch'::text]))) NOT VALID,
    CONSTRAINT audit_entries_pkey PRIMARY KEY (id),
    CONSTRAINT audit_evidence_names_its_event CHECK (((evidence <> 'audit'::text) OR (audit_id <> ''::text))),
    CONSTRAINT evidence_is_known CHECK ((evidence = ANY (ARRAY['audit'::text, 'successor'::text, 'probe'::text, 'self'::text, 'none'::text]))),
    CONSTRAINT outcome_is_known CHECK ((outcome = ANY (ARRAY['confirmed'::text, 'rejected'::text, 'superseded'::text, 'unconfirmed'::text]))),
    CONSTRAINT rejected_has_failed CHECK (((outcome <> 'rejected'::text) OR (status_code >= 400))),
    CONSTRAINT source_is_known CHECK ((source = ANY (ARRAY['admission'::text, 'audit'::text, 'watch'::text, 'chain'::text, 'panel'::text, 'ingest'::text]))),
    CONSTRAINT status_code_is_of_http CHECK (((status_code >= 100) AND (status_code <= 599))),
    CONSTRAINT unconfirmed_is_without_evidence CHECK (((outcome = 'unconfirmed'::text) = (evidence = 'none'::text)))
) PARTITION BY RANGE (id);
CREATE INDEX audit_entries_by_position ON ONLY public.audit_entries USING btree ("position");
CREATE INDEX audit_entries_failures ON ONLY public.audit_entries USING btree (id) WHERE (status_code >= 400);
CREATE INDEX audit_entries_kind ON ONLY public.audit_entries USING btree ("left"(split_part(resource, '/'::text, 1), 256), id);
CREATE INDEX audit_entries_name ON ONLY public.audit_entries USING btree ("left"(resource_name, 256), id);
CREATE INDEX audit_entries_namespace ON ONLY public.audit_entries USING btree ("left"(namespace, 256), id);
CREATE UNIQUE INDEX audit_entries_pkey ON ONLY public.audit_entries USING btree (id);
CREATE INDEX audit_entries_policy ON ONLY public.audit_entries USING btree (policy, id);
CREATE INDEX audit_entries_user ON ONLY public.audit_entries USING btree ("left"("user", 256), id);

CREATE TABLE audit_entries_20260301 (
    id uuid NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    action text COLLATE "C" NOT NULL,
    resource text COLLATE "C" NOT NULL,
    resource_name text COLLATE "C" NOT NULL,
    cluster text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    status_code integer NOT NULL,
    detail jsonb NOT NULL,
    ip text COLLATE "C" NOT NULL,
    "timestamp" timestamp with time zone NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    evidence text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    audit_id text COLLATE "C" NOT NULL,
    real_user text COLLATE "C" NOT NULL,
    user_agent text COLLATE "C" NOT NULL,
    api_group text COLLATE "C" NOT NULL,
    object_uid text COLLATE "C" NOT NULL,
    before_hash bigint,
    after_hash bigint,
    policy text COLLATE "C" NOT NULL,
    "position" bigint NOT NULL,
    CONSTRAINT action_is_known CHECK ((action = ANY (ARRAY['create'::text, 'update'::text, 'delete'::text, 'start'::text, 'end'::text, 'login'::text, 'logout'::text, 'authenticate'::text, 'enable'::text, 'disable'::text, 'revoke'::text, 'add'::text, 'remove'::text, 'purge'::text, 'gap'::text, 'export'::text, 'get'::text, 'list'::text, 'watch'::text]))),
    CONSTRAINT audit_entries_20260301_pkey PRIMARY KEY (id),
    CONSTRAINT audit_evidence_names_its_event CHECK (((evidence <> 'audit'::text) OR (audit_id <> ''::text))),
    CONSTRAINT evidence_is_known CHECK ((evidence = ANY (ARRAY['audit'::text, 'successor'::text, 'probe'::text, 'self'::text, 'none'::text]))),
    CONSTRAINT outcome_is_known CHECK ((outcome = ANY (ARRAY['confirmed'::text, 'rejected'::text, 'superseded'::text, 'unconfirmed'::text]))),
    CONSTRAINT rejected_has_failed CHECK (((outcome <> 'rejected'::text) OR (status_code >= 400))),
    CONSTRAINT source_is_known CHECK ((source = ANY (ARRAY['admission'::text, 'audit'::text, 'watch'::text, 'chain'::text, 'panel'::text, 'ingest'::text]))),
    CONSTRAINT status_code_is_of_http CHECK (((status_code >= 100) AND (status_code <= 599))),
    CONSTRAINT unconfirmed_is_without_evidence CHECK (((outcome = 'unconfirmed'::text) = (evidence = 'none'::text)))
) PARTITION OF audit_entries FOR VALUES FROM ('019ca6b1-dc00-0000-0000-000000000000') TO ('019cabd8-3800-0000-0000-000000000000');
CREATE INDEX audit_entries_20260301_id_idx ON public.audit_entries_20260301 USING btree (id) WHERE (status_code >= 400);
CREATE INDEX audit_entries_20260301_left_id_idx ON public.audit_entries_20260301 USING btree ("left"("user", 256), id);
CREATE INDEX audit_entries_20260301_left_id_idx1 ON public.audit_entries_20260301 USING btree ("left"(namespace, 256), id);
CREATE INDEX audit_entries_20260301_left_id_idx2 ON public.audit_entries_20260301 USING btree ("left"(resource_name, 256), id);
CREATE INDEX audit_entries_20260301_left_id_idx3 ON public.audit_entries_20260301 USING btree ("left"(split_part(resource, '/'::text, 1), 256), id);
CREATE UNIQUE INDEX audit_entries_20260301_pkey ON public.audit_entries_20260301 USING btree (id);
CREATE INDEX audit_entries_20260301_policy_id_idx ON public.audit_entries_20260301 USING btree (policy, id);
CREATE INDEX audit_entries_20260301_position_idx ON public.audit_entries_20260301 USING btree ("position");

CREATE TABLE awaited_entries (
    id uuid NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    action text COLLATE "C" NOT NULL,
    resource text COLLATE "C" NOT NULL,
    resource_name text COLLATE "C" NOT NULL,
    cluster text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    status_code integer NOT NULL,
    detail jsonb NOT NULL,
    ip text COLLATE "C" NOT NULL,
    "timestamp" timestamp with time zone NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    evidence text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    audit_id text COLLATE "C" NOT NULL,
    real_user text COLLATE "C" NOT NULL,
    user_agent text COLLATE "C" NOT NULL,
    api_group text COLLATE "C" NOT NULL,
    object_uid text COLLATE "C" NOT NULL,
    before_hash bigint,
    after_hash bigint,
    policy text COLLATE "C" NOT NULL,
    since timestamp with time zone NOT NULL,
    CONSTRAINT action_is_known CHECK ((action = ANY (ARRAY['create'::text, 'update'::text, 'delete'::text, 'start'::text, 'end'::text, 'login'::text, 'logout'::text, 'authenticate'::text, 'enable'::text, 'disable'::text, 'revoke'::text, 'add'::text, 'remove'::text, 'purge'::text, 'gap'::text, 'export'::text, 'get'::text, 'list'::text, 'watch'::text]))),
    CONSTRAINT audit_evidence_names_its_event CHECK (((evidence <> 'audit'::text) OR (audit_id <> ''::text))),
    CONSTRAINT awaited_entries_pkey PRIMARY KEY (id),
    CONSTRAINT evidence_is_known CHECK ((evidence = ANY (ARRAY['audit'::text, 'successor'::text, 'probe'::text, 'self'::text, 'none'::text]))),
    CONSTRAINT outcome_is_known CHECK ((outcome = ANY (ARRAY['confirmed'::text, 'rejected'::text, 'superseded'::text, 'unconfirmed'::text]))),
    CONSTRAINT rejected_has_failed CHECK (((outcome <> 'rejected'::text) OR (status_code >= 400))),
    CONSTRAINT source_is_known CHECK ((source = ANY (ARRAY['admission'::text, 'audit'::text, 'watch'::text, 'chain'::text, 'panel'::text, 'ingest'::text]))),
    CONSTRAINT status_code_is_of_http CHECK (((status_code >= 100) AND (status_code <= 599))),
    CONSTRAINT unconfirmed_is_without_evidence CHECK (((outcome = 'unconfirmed'::text) = (evidence = 'none'::text)))
);
CREATE INDEX awaited_entries_by_age ON public.awaited_entries USING btree (since);
CREATE UNIQUE INDEX awaited_entries_pkey ON public.awaited_entries USING btree (id);

CREATE TABLE settings (
    name text COLLATE "default" NOT NULL,
    value bytea NOT NULL,
    CONSTRAINT settings_pkey PRIMARY KEY (name)
);
CREATE UNIQUE INDEX settings_pkey ON public.settings USING btree (name);

CREATE TABLE job_runs (
    job text COLLATE "default" NOT NULL,
    finished_at timestamp with time zone NOT NULL,
    removed text COLLATE "default" NOT NULL,
    CONSTRAINT job_runs_pkey PRIMARY KEY (job)
);
CREATE UNIQUE INDEX job_runs_pkey ON public.job_runs USING btree (job);

CREATE TABLE leases (
    name text COLLATE "default" NOT NULL,
    holder text COLLATE "default" NOT NULL,
    epoch bigint NOT NULL,
    until timestamp with time zone NOT NULL,
    CONSTRAINT epoch_counts_from_one CHECK ((epoch >= 1)),
    CONSTRAINT leases_pkey PRIMARY KEY (name)
);
CREATE UNIQUE INDEX leases_pkey ON public.leases USING btree (name);

CREATE SEQUENCE audit_entries_position AS bigint START 1 INCREMENT 1 CACHE 1;

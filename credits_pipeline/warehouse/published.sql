-- What is in a published copy, and since when.
create table published.marts.published (
    run_id varchar, published_at timestamp, as_of timestamp, version varchar, is_simulated boolean
);
comment on table published.marts.published is 'One row: which run made this file, when, and as of which reading.';
comment on column published.marts.published.run_id is 'Run that made this file.';
comment on column published.marts.published.published_at is 'UTC instant at which this file was made.';
comment on column published.marts.published.as_of is 'UTC instant of the newest reading of any account.';
comment on column published.marts.published.version is 'Version of the program that made this file.';
comment on column published.marts.published.is_simulated is
    'True: the figures come from the simulated API, not from an account.';

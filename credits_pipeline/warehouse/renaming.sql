-- The account that the variable old_name holds becomes that of new_name: of what both know, the later fetch stays.

create temporary table superseded as
select if(o.fetched_at < n.fetched_at, o.account, n.account) as account, usage_date, null as dimension
from raw.model_usage_days as o inner join raw.model_usage_days as n using (usage_date)
where o.account = getvariable('old_name') and n.account = getvariable('new_name')
union all
select if(o.fetched_at < n.fetched_at, o.account, n.account), usage_date, dimension
from raw.usage_breakdown_days as o inner join raw.usage_breakdown_days as n using (usage_date, dimension)
where o.account = getvariable('old_name') and n.account = getvariable('new_name');

delete from raw.model_usage
where (account, usage_date) in (select account, usage_date from superseded where dimension is null);

delete from raw.model_usage_days
where (account, usage_date) in (select account, usage_date from superseded where dimension is null);

delete from raw.usage_breakdown
where (account, usage_date, dimension) in (from superseded where dimension is not null);

delete from raw.usage_breakdown_days
where (account, usage_date, dimension) in (from superseded where dimension is not null);

drop table superseded;

-- Of a key's lists of one UTC day, the last one.
delete from raw.api_keys as earlier
where account in (getvariable('old_name'), getvariable('new_name')) and exists (
        from raw.api_keys as later
        where later.account in (getvariable('old_name'), getvariable('new_name'))
            and later.key_hash = earlier.key_hash
            and later.observed_at::date = earlier.observed_at::date
            and later.observed_at > earlier.observed_at
    );

-- An alert's key is its kind, the account and what else it is about.
update ops.alerts_sent
set alert_key = regexp_replace(
    alert_key, '/' || regexp_escape(getvariable('old_name')) || '(/|$)', '/' || getvariable('new_name') || '\1'
)
where account = getvariable('old_name');

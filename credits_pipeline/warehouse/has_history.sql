-- A row where $account was ever seen with credits or spend.
select 1 from raw.credits_snapshots where account = $account and (total_credits <> 0 or total_usage <> 0)
union all
select 1 from raw.model_usage_days where account = $account and credits_usd <> 0
limit 1

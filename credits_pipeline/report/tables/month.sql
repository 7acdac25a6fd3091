-- The running month of an account, with how many outlooks of past months were right.

select outlook.*, record.* exclude (account)
from marts.month_outlook as outlook
left join (
    select account, sum(replays) as replays, sum(round(coverage_80 * replays)) as right_replays
    from marts.month_outlook_accuracy
    group by account
) as record using (account)
where account = $account and (month_p50_usd is not null or budget_usd is not null)

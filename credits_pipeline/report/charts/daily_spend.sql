-- Spend of an account per UTC day, the newest 60, and what else moved its balance on these days.
-- More days than that make bars thinner than 5 px: hollow and filled ones look the same.

with spend as (
    select
        spend_date,
        spend_usd,
        case
            when spend_usd is null then 'Unknown'
            when not is_complete and spend_date = max(spend_date) over () then 'Latest day, so far'
            when method = 'observed' then 'Measured'
            when method = 'billed' then 'As billed'
            else 'Estimate'
        end as kind
    from marts.daily_spend
    where account = $account
    qualify row_number() over (order by spend_date desc) <= 60
),

events as (
    select
        make_timestamp((epoch_us(event_at_earliest) + epoch_us(event_at_latest)) // 2) as "at",
        case kind
            when 'top_up' then 'Top-up'
            when 'credit_decrease' then 'Refund, transfer or expiry'
            else 'Correction'
        end as kind,
        if(kind = 'usage_correction', -amount_usd, amount_usd) as effect_usd
    from marts.credit_events
    where account = $account
)

select
    (select list(spend order by spend_date) from spend) as spend,
    (
        select list(events order by "at", kind) from events
        where cast("at" as date) between (select min(spend_date) from spend) and (select max(spend_date) from spend)
    ) as events,
    (select spend from spend where spend_usd is not null order by spend_usd desc, spend_date limit 1) as highest

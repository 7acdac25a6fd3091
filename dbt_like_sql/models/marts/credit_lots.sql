-- One row per account and purchase, oldest first: how much of it is left if the oldest credits are spent first, and how much
-- will be when they may expire. All credits from before the first reading are one lot of unknown age.
-- Guarantee: what remains of all lots is the balance, or nothing where the balance is a debt. A credit_decrease takes from the
-- newest credits: refunds are of recent purchases.

with spans as (
    select
        account,
        min(observed_at) as first_at,
        arg_min(total_credits, observed_at) as first_credits,
        arg_max(total_credits, observed_at) as total_credits,
        arg_max(total_usage, observed_at) as total_usage
    from {{ ref('credits_readings') }}
    group by account
),

changes as (
    select account, null as bought_earliest, first_at as bought_latest, first_credits as amount_usd
    from spans
    union all
    select account, event_at_earliest, event_at_latest, amount_usd
    from {{ ref('credit_events') }}
    where kind in ('top_up', 'credit_decrease')
),

levels as (
    select
        *,
        sum(amount_usd) over (partition by account order by bought_latest rows unbounded preceding) as total_credits
    from changes
),

-- A lot is a stretch of the counter total_credits: from what it stood at before the purchase to the least since.
lots as (
    select
        account,
        bought_earliest,
        bought_latest,
        amount_usd,
        total_credits - amount_usd as from_usd,
        min(total_credits) over (
            partition by account order by bought_latest rows between current row and unbounded following
        ) as to_usd,
        cast(bought_earliest + interval {{ var('credits_expire_after_years') }} year as date) as expires_on
    from levels
    qualify amount_usd > 0
),

-- The counter total_usage uses that stretch up, from its beginning.
uses as (
    select
        lots.*,
        spans.total_usage as used_usd,
        greatest(
            spans.total_usage,
            case
                when lots.expires_on <= place.close_date then spans.total_usage
                else cast(spans.total_credits - place.balance_at_close_usd as decimal(28, 9)) + fan.spend_p50
            end
        ) as used_then_usd,
        lots.expires_on <= place.close_date or fan.spend_p50 is not null as is_forecast
    from lots
    inner join spans using (account)
    inner join {{ ref('int_runway_position') }} as place using (account)
    left join {{ ref('balance_forecast') }} as fan
        on lots.account = fan.account
        and lots.expires_on is not null
        and least(lots.expires_on, place.close_date + {{ var('forecast_horizon_days') }}) = fan.forecast_date
)

select
    account,
    bought_earliest,
    bought_latest,
    amount_usd,
    cast(greatest(to_usd - greatest(from_usd, used_usd), 0) as decimal(18, 9)) as remaining_usd,
    expires_on,
    cast(
        if(is_forecast, greatest(to_usd - greatest(from_usd, used_then_usd), 0), null) as decimal(18, 9)
    ) as at_risk_usd
from uses
order by account, bought_latest

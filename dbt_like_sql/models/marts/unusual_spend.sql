-- One row per account, UTC day and cause: the days of the last 90 that cost more than the forecast of the night before was
-- 99 % sure of, the models that cost more than usual on them, and the API key whose spend rose most.
-- Guarantee: a day is judged by its whole bill where that is known, because minutes around a midnight can move a batch
-- job to the day before; else by what the readings show. Days estimated across a gap and days under a cent are never here.

{% set usual_days = var('usual_days') %}

with days as (
    select
        spend.account,
        spend.spend_date,
        if(bills.is_whole_day, bills.credits_usd, spend.spend_usd) as unusual_usd,
        if(bills.is_whole_day, 'billed', spend.method) as method,
        spend.observed_usd,
        spend.billed_usd,
        forecast.next_day_p99_usd,
        spend.method = 'observed'
        and bills.is_whole_day
        and spend.observed_usd > forecast.next_day_p99_usd
        and spend.billed_usd <= forecast.next_day_p99_usd as is_another_days
    from {{ ref('daily_spend') }} as spend
    inner join {{ ref('runway_history') }} as forecast
        on spend.account = forecast.account
        and spend.spend_date = forecast.as_of_date + 1
    left join {{ ref('stg_model_usage_days') }} as bills
        on spend.account = bills.account
        and spend.spend_date = bills.usage_date
    where spend.is_complete
),

-- A batch job right after midnight is in the readings of the day before: what the forecast then learnt is not so, and the
-- day is judged by the forecast before that one.
forecasts as (
    select
        * exclude (next_day_p99_usd),
        if(lag(is_another_days) over by_day, lag(next_day_p99_usd) over by_day, next_day_p99_usd) as next_day_p99_usd
    from days
    window by_day as (partition by account order by spend_date)
),

candidates as (
    select *
    from forecasts
    where method <> 'interpolated'
        and unusual_usd >= {{ var('unusual_spend_min_usd') }}
        and (next_day_p99_usd is null or unusual_usd > next_day_p99_usd)
),

-- After half a year without spend there is no forecast: then any spend is unusual.
unusual_days as (
    select
        candidates.account,
        candidates.spend_date,
        candidates.unusual_usd,
        candidates.method,
        candidates.observed_usd,
        candidates.billed_usd,
        coalesce(candidates.next_day_p99_usd, cast(0 as decimal(18, 9))) as possible_usd,
        cast(avg(before.spend_usd) as decimal(18, 9)) as usual_usd,
        count(before.billed_usd) as billed_days
    from candidates
    left join {{ ref('daily_spend') }} as before
        on candidates.account = before.account
        and before.spend_date between candidates.spend_date - {{ usual_days }} and candidates.spend_date - 1
        and before.is_complete
    group by all
    having candidates.next_day_p99_usd is not null
        or (count(before.spend_usd) = {{ usual_days }} and max(before.spend_usd) <= 0)
),

model_days as (
    select
        days.account,
        days.spend_date,
        billed.model,
        sum(billed.spend_usd) filter (where billed.spend_date = days.spend_date) as model_usd,
        coalesce(sum(billed.spend_usd) filter (where billed.spend_date < days.spend_date), 0)
        / greatest(any_value(days.billed_days), 1) as usual_usd
    from unusual_days as days
    inner join {{ ref('daily_spend_by_model') }} as billed
        on days.account = billed.account
        and billed.spend_date between days.spend_date - {{ usual_days }} and days.spend_date
    group by days.account, days.spend_date, billed.model
),

causes as (
    select
        account,
        spend_date,
        row_number() over (
            partition by account, spend_date order by model_usd - usual_usd desc, model
        ) as cause_rank,
        model,
        cast(model_usd as decimal(18, 9)) as model_usd,
        cast(usual_usd as decimal(18, 9)) as model_usual_usd
    from model_days
    where model_usd > usual_usd
    qualify cause_rank <= {{ var('unusual_spend_causes') }}
),

-- Days whose breakdown by key was fetched, if that of the unusual day is among them, and of a day before it.
key_days as (
    select
        days.account,
        days.spend_date,
        fetched.usage_date,
        count(*) over unusual_day - 1 as days_before
    from unusual_days as days
    inner join {{ source('raw', 'usage_breakdown_days') }} as fetched
        on days.account = fetched.account
        and fetched.dimension = 'api_key'
        and fetched.usage_date between days.spend_date - {{ usual_days }} and days.spend_date
    window unusual_day as (partition by days.account, days.spend_date)
    qualify days_before > 0 and max(fetched.usage_date) over unusual_day = days.spend_date
),

key_models as (
    select
        days.account,
        days.spend_date,
        used.member,
        used.model,
        coalesce(sum(used.spend_usd) filter (where used.spend_date = days.spend_date), 0) as model_usd,
        coalesce(sum(used.spend_usd) filter (where used.spend_date < days.spend_date), 0) / any_value(days.days_before)
            as usual_usd
    from key_days as days
    inner join {{ ref('daily_spend_by_key') }} as used
        on days.account = used.account
        and days.usage_date = used.spend_date
    group by days.account, days.spend_date, used.member, used.model
),

risen_keys as (
    select
        account,
        spend_date,
        member,
        sum(model_usd) as key_usd,
        sum(usual_usd) as usual_usd,
        sum(model_usd) - sum(usual_usd) as excess_usd,
        first(model order by model_usd - usual_usd desc, model) as key_model,
        max(model_usd - usual_usd) / sum(greatest(model_usd - usual_usd, 0)) as key_model_share
    from key_models
    group by account, spend_date, member
    having excess_usd > 0
),

key_causes as (
    select
        *,
        excess_usd / sum(excess_usd) over (partition by account, spend_date) as key_share
    from risen_keys
    qualify member <> '(unattributed)'
        and row_number() over (
            partition by account, spend_date order by member = '(unattributed)', excess_usd desc, member
        ) = 1
)

select
    unusual_days.account,
    unusual_days.spend_date,
    unusual_days.unusual_usd,
    unusual_days.method,
    unusual_days.observed_usd,
    unusual_days.billed_usd,
    unusual_days.possible_usd,
    unusual_days.usual_usd,
    coalesce(causes.cause_rank, 1) as cause_rank,
    causes.model,
    causes.model_usd,
    causes.model_usual_usd,
    key_causes.member as key_name,
    cast(key_causes.key_usd as decimal(18, 9)) as key_usd,
    cast(key_causes.usual_usd as decimal(18, 9)) as key_usual_usd,
    key_causes.key_share,
    key_causes.key_model,
    key_causes.key_model_share
from unusual_days
left join causes using (account, spend_date)
left join key_causes using (account, spend_date)
order by unusual_days.account, unusual_days.spend_date, cause_rank

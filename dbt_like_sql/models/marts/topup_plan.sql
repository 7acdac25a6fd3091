-- One row per account, day until which credits shall last, and confidence: how much to buy now so that they last until the
-- end of that day. It is the quantile of what is spent from the close at which the forecast begins, in a somewhat wider
-- interval than that of balance_forecast, plus the reserve, less the balance then; in whole cents, and at least what can be
-- bought at once.
-- Guarantee: for every account whose newest night gives dates, also where its credits are used up. More confidence or a
-- later day never needs less. Bought exactly so, runway_curve reaches 1 - confidence on `until_date` or later.

{% set confidences = [0.5, 0.8, 0.9, 0.95] %}

with starts as (
    select
        place.account,
        place.close_date,
        cast(place.balance_at_close_usd as double) as balance,
        forecast.* exclude (series, origin_date)
    from {{ ref('int_runway_position') }} as place
    inner join {{ ref('int_spend_forecast') }} as forecast
        on place.series = forecast.series
        and place.last_complete_date = forecast.origin_date
    where forecast.is_dated
),

until_dates as (
    select
        starts.account,
        starts.close_date,
        starts.balance,
        unnest([
            {%- for days in [7, 14, 30, 60, 90] %}
            {'reason': '{{ days }} days', 'until_date': starts.close_date + {{ days }}},
            {%- endfor %}
            {'reason': 'this month', 'until_date': last_day(starts.close_date + 1)},
            {'reason': 'next month', 'until_date': last_day(last_day(starts.close_date + 1) + 1)},
            {'reason': 'CREDITS_TOPUP_UNTIL', 'until_date': plans.topup_until}
        ], recursive := true)
    from starts
    left join {{ source('raw', 'account_plans') }} as plans using (account)
),

targets as (
    select *, until_date - close_date as day_ahead
    from until_dates
    where until_date - close_date between 1 and {{ var('forecast_horizon_days') }}
),

days as (
    select
        account,
        day_ahead,
        {{ spend_median('day_ahead') }} as median,
        {{ spend_log_scale('day_ahead') }} * {{ var('money_width') }} as log_scale
    from starts
    cross join range(1, (select max(day_ahead) from targets) + 1) as horizon (day_ahead)
),

-- More days never cost less: the interval may narrow, what was spent is not taken back.
spends as (
    select
        account,
        day_ahead
        {%- for confidence in confidences %},
        max(median * exp({{ 'ln(%s / (1 - %s))' % (confidence, confidence) }} * log_scale)) over so_far
            as spend_{{ loop.index }}
        {%- endfor %}
    from days
    window so_far as (partition by account order by day_ahead rows unbounded preceding)
),

quantiles as (
    select
        account,
        close_date,
        balance,
        until_date,
        reason,
        unnest([
            {%- for confidence in confidences %}
            {'confidence': cast({{ confidence }} as double), 'spend': spend_{{ loop.index }}}{{ ',' if not loop.last }}
            {%- endfor %}
        ], recursive := true)
    from targets
    inner join spends using (account, day_ahead)
),

needs as (
    select *, spend + {{ var('topup_reserve_usd') }} - balance as need
    from quantiles
),

purchases as (
    select
        *,
        {{ usd('if(need > 0, greatest(ceil(need * 100) / 100, %s), 0)' % var('purchase_min_usd')) }} as credits_usd
    from needs
)

select
    account,
    until_date,
    reason,
    confidence,
    credits_usd,
    {{ charged_by_card('credits_usd') }} as charged_usd,
    {{ usd('round(cast(credits_usd as decimal(38, 9)) * %s, 2)' % (1 + var('purchase_fee_crypto'))) }} as charged_in_crypto_usd,
    confidence = {{ var('topup_advised_confidence') }}
    and row_number() over (
        partition by account, confidence
        order by
            reason = 'CREDITS_TOPUP_UNTIL' desc,
            reason in ('this month', 'next month')
            and until_date - close_date >= {{ var('topup_advised_min_days') }} desc,
            until_date
    ) = 1 as is_advised
from purchases
order by account, until_date, reason, confidence

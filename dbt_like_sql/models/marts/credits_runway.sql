-- One row per account that was ever read, as of its newest reading: when the credits run out, and how sure that is.
-- Guarantee: dates are given where status is ok or exhausted, and then P10 <= P50 <= P90, none before the day of the
-- newest reading. They are the days on which runway_curve reaches 0.10, 0.50 and 0.90, null beyond its horizon. Where
-- the credits are used up, all three are the day of the newest reading.

{% set quantiles = {'p10': 0.1, 'p50': 0.5, 'p90': 0.9} %}
{% set causes = ['spend', 'credit', 'learning'] %}

with curve_points as (
    select
        account
        {%- for quantile, probability in quantiles.items() %},
        min(day_ahead) filter (where probability >= {{ probability }}) as days_left_{{ quantile }}
        {%- endfor %},
        max(probability) filter (where day_ahead = 7) as probability_7d,
        max(probability) filter (where day_ahead = 30) as probability_30d
    from {{ ref('runway_curve') }}
    group by account
),

records as (
    select
        account,
        sum(coverage_80 * replays order by horizon_days) / sum(replays) as calibration_80
    from {{ ref('forecast_accuracy') }}
    group by account
),

answers as (
    select
        place.account,
        place.as_of,
        place.close_date,
        place.status,
        place.is_early,
        place.balance_usd,
        summary.spend_7d_usd,
        summary.spend_30d_usd,
        case
            when place.history_days >= {{ var('runway_min_days') }}
                then {{ usd("coalesce(if(place.status = 'idle', 0, forecast.level_usd), 0)") }}
        end as expected_daily_spend_usd,
        {%- for quantile in quantiles %}
        cast(
            case place.status
                when 'ok' then curve_points.days_left_{{ quantile }}
                when 'exhausted' then cast(place.as_of as date) - place.close_date
            end as bigint
        ) as days_left_{{ quantile }},
        {%- endfor %}
        {%- for days in [7, 30] %}
        cast(
            case place.status when 'ok' then curve_points.probability_{{ days }}d when 'exhausted' then 1 end as double
        ) as probability_{{ days }}d,
        {%- endfor %}
        place.history_days,
        place.imputed_days,
        place.days_with_spend,
        place.recent_days,
        place.is_unused,
        records.calibration_80
    from {{ ref('int_runway_position') }} as place
    inner join {{ ref('spend_summary') }} as summary using (account)
    left join curve_points using (account)
    left join records using (account)
    left join {{ ref('int_spend_forecast') }} as forecast
        on place.series = forecast.series
        and place.last_complete_date = forecast.origin_date
),

-- What moved the date by a day or more, as parts of a sentence.
causes as (
    select
        account,
        moved_days,
        case
            when spend_days <> 0 then
                if(spend_usd > expected_spend_usd, 'higher', 'lower') || ' spend than expected ('
                || format('{:+d} day{}', spend_days, if(abs(spend_days) = 1, '', 's'))
                || coalesce(
                    ', mostly ' || if(spend_usd > expected_spend_usd, most_risen_model, most_fallen_model), ''
                )
                || coalesce('; key ' || if(spend_usd > expected_spend_usd, most_risen_key, most_fallen_key), '')
                || ')'
        end as spend_cause,
        case
            when credit_days <> 0 then
                if(credit_change_usd > 0, 'a top-up (', 'a refund or other deduction (')
                || format('{:+d} day{}', credit_days, if(abs(credit_days) = 1, '', 's')) || ')'
        end as credit_cause,
        case
            when learning_days <> 0 then
                'an updated spending rate ('
                || format('{:+d} day{}', learning_days, if(abs(learning_days) = 1, '', 's')) || ')'
        end as learning_cause
    from {{ ref('int_runway_change') }}
),

words as (
    select
        answers.*,
        {{ usd_in_words('balance_usd') }} as balance_words,
        {{ usd_in_words('expected_daily_spend_usd') }} as expected_daily_words,
        case
            when days_left_p10 is null then 'last for more than a year'
            when days_left_p50 is null then 'probably last for more than a year'
            else 'last until about ' || strftime(close_date + cast(days_left_p50 as integer), '%-d %b %Y')
        end as outcome,
        case
            when moved_days = 0 then ', unchanged since the previous day''s forecast'
            else ', ' || abs(moved_days) || if(abs(moved_days) = 1, ' day ', ' days ')
                || if(moved_days < 0, 'earlier', 'later') || ' than the previous day''s forecast'
        end
        || coalesce(
            ': ' || nullif(concat_ws(', '{% for cause in causes %}, {{ cause }}_cause{% endfor %}), ''), ''
        ) as movement
    from answers
    left join causes using (account)
),

runways as (
    select
        account,
        as_of,
        status,
        is_early,
        balance_usd,
        spend_7d_usd,
        spend_30d_usd,
        expected_daily_spend_usd
        {%- for quantile in quantiles %},
        days_left_{{ quantile }}
        {%- endfor %}
        {%- for quantile in quantiles %},
        close_date + cast(days_left_{{ quantile }} as integer) as run_out_{{ quantile }}
        {%- endfor %},
        probability_7d,
        probability_30d,
        history_days,
        imputed_days,
        if(status = 'ok', 'fuel_gauge', null) as method,
        calibration_80,
        case
            when is_unused then
                'No credits were ever bought or spent, so there is nothing to forecast until the first are bought.'
            when status = 'exhausted' then 'The credits are used up: the balance is ' || balance_words || '.'
            when status = 'idle' then
                'Nothing was spent in the last {{ var('idle_days') }} days, so the ' || balance_words
                || ' will last until spending starts again.'
            when history_days < {{ var('runway_min_days') }} or days_with_spend < {{ var('runway_min_days_with_spend') }} then
                'A date needs {{ var('runway_min_days') }} complete days, {{ var('runway_min_days_with_spend') }} of them with '
                || 'spend; known so far: ' || history_days || ', ' || days_with_spend || ' with spend.'
            when status = 'accumulating' then
                'Nothing was spent on the ' || recent_days || ' of the last {{ var('idle_days') }} days that are known: there is '
                || 'no date until something is spent.'
            else
                'At about ' || expected_daily_words || ' a day, ' || balance_words || ' will ' || outcome
                || coalesce(movement, '') || '.'
        end as explanation,
        is_unused
    from words
)

select
    *,
    -- Of an account alone, so that it sorts the accounts of several warehouses too. Days are counted from 1970.
    cast(
        case
            when status = 'exhausted' and not is_unused then run_out_p50 - date '1970-01-01'
            else
                coalesce(if(is_unused, null, run_out_p50) - date '1970-01-01', 99999) * 1000000
                + coalesce(if(is_unused, null, run_out_p10) - date '1970-01-01', 99999) * 10
                + list_position(['ok', 'accumulating', 'idle', 'exhausted'], status)
        end as bigint
    ) as urgency
from runways
order by account

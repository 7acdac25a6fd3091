-- The whole of metrics.prom: the samples of each metric under its help and type. What a mart does not know has no sample.
-- $accounts: who has a key. The last reading of one that has none any more would be on a dashboard for ever.

with metrics (metric, help) as (
    values
    ('balance_usd', 'Credits left at the newest reading, USD.'),
    ('bought_usd_total', 'Credits ever bought, USD.'),
    ('expected_daily_spend_usd', 'Expected spend of an average day, USD.'),
    ('month_budget_usd', 'Budget of the UTC month, USD.'),
    ('month_forecast_usd', 'What the whole UTC month will have cost, USD, by percentile.'),
    ('month_over_budget_probability', 'Probability that the UTC month costs at least its budget.'),
    ('month_spent_usd', 'Spent in the UTC month up to the newest reading, USD.'),
    ('published_info', 'Which version published these figures, and whether they are simulated.'),
    ('reading_timestamp_seconds', 'When the newest reading was taken.'),
    ('run_out_probability', 'Probability that the credits are gone within so many days.'),
    ('run_out_timestamp_seconds', 'UTC day on which the credits run out, by percentile.'),
    ('topup_overdue', '1 where an automatic top-up should have arrived and did not.'),
    ('used_usd_total', 'Credits ever used, USD. A correction can lower it.')
),

newest as (
    select * from marts.credits_readings
    qualify row_number() over (partition by account order by observed_at desc) = 1
),

samples as (
    select
        map {'account': account} as labels,
        unnest([
            {'metric': 'bought_usd_total', 'label': null, 'value': cast(total_credits as double)},
            {'metric': 'used_usd_total', 'label': null, 'value': cast(total_usage as double)},
            {'metric': 'reading_timestamp_seconds', 'label': null, 'value': epoch(observed_at)}
        ], recursive := true)
    from newest

    union all

    select
        map {'account': account},
        unnest([
            {'metric': 'balance_usd', 'label': null, 'value': cast(balance_usd as double)},
            {'metric': 'expected_daily_spend_usd', 'label': null, 'value': cast(expected_daily_spend_usd as double)},
            {'metric': 'run_out_timestamp_seconds', 'label': map {'percentile': '10'}, 'value': epoch(run_out_p10)},
            {'metric': 'run_out_timestamp_seconds', 'label': map {'percentile': '50'}, 'value': epoch(run_out_p50)},
            {'metric': 'run_out_timestamp_seconds', 'label': map {'percentile': '90'}, 'value': epoch(run_out_p90)},
            {'metric': 'run_out_probability', 'label': map {'days': '7'}, 'value': probability_7d},
            {'metric': 'run_out_probability', 'label': map {'days': '30'}, 'value': probability_30d}
        ], recursive := true)
    from marts.credits_runway

    union all

    select
        map {'account': account},
        unnest([
            {'metric': 'month_spent_usd', 'label': null, 'value': cast(spent_usd as double)},
            {'metric': 'month_forecast_usd', 'label': map {'percentile': '10'}, 'value': cast(month_p10_usd as double)},
            {'metric': 'month_forecast_usd', 'label': map {'percentile': '50'}, 'value': cast(month_p50_usd as double)},
            {'metric': 'month_forecast_usd', 'label': map {'percentile': '90'}, 'value': cast(month_p90_usd as double)},
            {'metric': 'month_budget_usd', 'label': null, 'value': cast(budget_usd as double)},
            {'metric': 'month_over_budget_probability', 'label': null, 'value': probability_over_budget}
        ], recursive := true)
    from marts.month_outlook

    union all

    select map {'account': account}, 'topup_overdue', null, cast(is_overdue as double)
    from marts.topup_outlook
    where not is_suggestion

    union all

    select map {'version': version, 'simulated': cast(is_simulated as varchar)}, 'published_info', null, 1
    from marts.published
),

labelled as (
    select 'openrouter_credits_' || metric as metric, help, map_concat(labels, label) as labels, value
    from samples
    inner join metrics using (metric)
    where value is not null
        and (labels['account'] is null or len($accounts) = 0 or list_contains(cast($accounts as varchar[]), labels['account']))
),

blocks as (
    select
        metric,
        '# HELP ' || metric || ' ' || any_value(help) || chr(10)
        || '# TYPE ' || metric || if(ends_with(metric, '_total'), ' counter', ' gauge') || chr(10)
        || string_agg(
            metric || '{'
            || array_to_string(
                list_transform(
                    map_entries(labels),
                    lambda entry: entry.key || '="'
                    || replace(replace(replace(entry.value, '\', '\\'), '"', '\"'), chr(10), '\n') || '"'
                ),
                ','
            )
            || '} ' || value || chr(10),
            '' order by labels
        ) as block
    from labelled
    group by metric
)

select coalesce(string_agg(block, '' order by metric), '') as text from blocks

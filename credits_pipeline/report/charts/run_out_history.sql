-- Which run-out date was predicted on which UTC day for an account, beside the day by which spend had used up the balance
-- as it was then: later top-ups do not matter to it. A night that began with nothing left predicted nothing.

with nights as (
    select as_of_date, run_out_p10, run_out_p50, run_out_p90, used_up_date
    from marts.runway_history
    where account = $account and balance_usd > 0
),

dated as (
    select
        *,
        -- Nights in a row are one run, drawn as one band.
        as_of_date - cast(row_number() over (order by as_of_date) as int) as run
    from nights
    where run_out_p10 is not null
)

select
    (select list(dated order by as_of_date) from dated) as nights,
    (select arg_max(nights, as_of_date) from nights) as latest,
    (select count(used_up_date) from dated) as checked,
    (
        select count(*) from dated
        where used_up_date between run_out_p10 and coalesce(run_out_p90, date '9999-01-01')
    ) as inside,
    exists (from marts.credits_runway where account = $account and status = 'ok') as is_dated

-- One row: which rows of a file say something new of $account, by their numbers in order of time (`fresh`), and the first
-- thing that cannot be true (`problem`).
-- A lifetime counter must lie between the readings before and after it, and does not fall to zero. Small differences are
-- allowed: figures can be a minute old, and corrections happen. A large one is a typo or another account's reading and,
-- once stored, would show as a huge correction and a huge spend.
-- $places: where each row is in the file; $times, $bought, $used: what it says.

with file as (
    select
        unnest(range(len($places))) as number,
        unnest(cast($places as varchar[])) as place,
        unnest(cast($times as timestamp[])) as read_at,
        unnest(cast($bought as decimal(18, 9)[])) as bought,
        unnest(cast($used as decimal(18, 9)[])) as used
),

known as (
    from file
    union all
    select -1, 'the reading that is stored', observed_at, total_credits, total_usage
    from raw.credits_snapshots
    where account = $account
),

told as (
    select
        *,
        row_number() over told_before = 1 as is_first,
        first_value({'place': place, 'bought': bought, 'used': used}) over told_before as first
    from known
    window told_before as (partition by read_at order by number)
),

readings as (
    select
        *,
        lag(used) over (order by read_at) as used_before,
        lead(used) over (order by read_at) as used_after,
        min(if(bought <> 0 or used <> 0, read_at, null)) over () as funded_at
    from told
    where is_first
),

problems as (
    select read_at, 1 as kind, place || ' and ' || first.place || ' have the same time and different amounts.' as problem
    from told
    where number >= 0 and (bought <> first.bought or used <> first.used)

    union all

    select read_at, 2, place || ' has two zeros after credits were seen: no real reading, remove it.'
    from readings
    where number >= 0 and read_at > funded_at and bought = 0 and used = 0

    union all

    select
        read_at,
        3,
        place || ' has the total_usage ' || used || ' between readings of ' || used_before || ' and ' || used_after
        || ': a mistake, or another account''s reading. Correct it or take it out.'
    from readings
    where number >= 0
        and used_before <= used_after
        and abs(used - (used_before + used_after) / 2)
        > (used_after - used_before) / 2 + greatest(used_after - used_before, used_after * 0.01)
)

select
    (select first(problem order by kind = 1 desc, read_at, kind) from problems) as problem,
    (select list(number order by read_at) from readings where number >= 0) as fresh

-- How much to buy for an account so that credits last with 90 % probability: until the ends of this and of next month, for
-- 30 days, and until the day that is configured.

select
    until_date,
    list(if(reason = 'CREDITS_TOPUP_UNTIL', 'as configured', reason) order by reason) as reasons,
    any_value(credits_usd) as credits_usd,
    any_value(charged_usd) as charged_usd
from marts.topup_plan
where account = $account
    and confidence = 0.9
    and reason in ('this month', 'next month', '30 days', 'CREDITS_TOPUP_UNTIL')
group by until_date
order by until_date

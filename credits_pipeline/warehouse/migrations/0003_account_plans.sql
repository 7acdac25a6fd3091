-- What is configured for each account.

create table raw.account_plans (
    account varchar not null,
    budget_usd decimal(18,9),
    topup_below_usd decimal(18,9),
    topup_buys_usd decimal(18,9),
    topup_until date
);

-- One row per account, UTC day, app and model that was billed: who spent it.
-- Guarantee: macros/spend_by.sql; over a day `spend_usd` sums to the bill.

{{ spend_by('app') }}

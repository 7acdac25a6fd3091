-- One row per account, key with a limit and horizon (7, 14 and 30 days): how accurate the forecast of the key's spend was, as
-- forecast_accuracy says of accounts. A virtual limit is worth the horizon at the key's recent spend.
-- Guarantee: that of forecast_accuracy. Days on which a limit was used up throughout are not known: no horizon has them.

{{ replay_accuracy('account, key_hash', 'key_hash is not null') }}

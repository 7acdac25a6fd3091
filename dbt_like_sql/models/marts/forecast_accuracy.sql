-- One row per account and horizon (7, 14 and 30 days): how accurate the forecast was, replayed for each of the last 120
-- days whose horizon has passed, compared with simply repeating the mean of the last 7 days.
-- Guarantee: every replay uses only the days up to its own, backfilled history included; every day of its horizon is
-- known, and something was left that night. A horizon without any replay has no row. Replays overlap, so a hundred of them
-- are worth far fewer independent ones.

{{ replay_accuracy('account', 'key_hash is null') }}

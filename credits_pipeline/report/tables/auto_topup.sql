-- The automatic top-up of an account, configured or suggested.

from marts.topup_outlook where account = $account

-- What the last 30 complete days of an account were spent on: its largest models, and all others together.

select model, models, spend_usd, share, requests, prompt_tokens, completion_tokens
from marts.spend_summary_by_model
where account = $account
order by place

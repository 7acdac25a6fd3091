-- More days never make it less likely that the credits are gone, and a probability lies between 0 and 1.
select account, day_ahead, probability, lag(probability) over (partition by account order by day_ahead) as before
from {{ ref('runway_curve') }}
qualify probability < before or not probability between 0 and 1

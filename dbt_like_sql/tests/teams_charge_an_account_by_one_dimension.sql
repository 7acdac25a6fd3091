-- No line of CREDITS_TEAMS is left aside because an earlier one charges its account by another dimension.
-- A warning: what such a line meant is charged to `(no team)`, or to what another line says.
{{ config(severity='warn') }}

select charged.account, teams.position, teams.dimension, teams.pattern, teams.team
from (select distinct account from {{ ref('monthly_chargeback') }}) as charged
inner join {{ source('raw', 'teams') }} as teams on {{ is_like('charged.account', 'teams.account') }}
qualify teams.dimension <> first_value(teams.dimension) over (partition by charged.account order by teams.position)

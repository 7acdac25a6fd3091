{# Every generic test of this project, the first three in place of dbt's own, so that dbt and the pipeline run the same
   SQL: each selects what must not be there. #}

{% test unique(model, column_name) %}
select {{ column_name }}, count(*) as n_records
from {{ model }}
where {{ column_name }} is not null
group by {{ column_name }}
having count(*) > 1
{% endtest %}

{% test not_null(model, column_name) %}
select * from {{ model }} where {{ column_name }} is null
{% endtest %}

{% test accepted_values(model, column_name, values) %}
select {{ column_name }}, count(*) as n_records
from {{ model }}
where {{ column_name }} not in ('{{ values | join("', '") }}')
group by {{ column_name }}
{% endtest %}

{# The rows that break a primary key: found twice, or with a part that is null. Parts in `nullable` may be null. #}
{% test primary_key(model, columns, nullable=[]) %}
select {{ columns | join(', ') }}, count(*) as rows_found
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1
{%- for column in columns if column not in nullable %} or {{ column }} is null{% endfor %}
{% endtest %}

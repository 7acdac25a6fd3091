{# dbt would say main_marts: the schema is the one that dbt_project.yml names. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name or target.schema }}
{%- endmacro %}

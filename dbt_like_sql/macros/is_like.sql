{# Whether a text is like a pattern, in which `*` is any text and all else stands for itself. #}
{% macro is_like(text, pattern) -%}
    {{ text }} like replace(replace(replace(replace({{ pattern }}, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%') escape '\'
{%- endmacro %}

{# A DOUBLE as money, at most a billion: above it nobody plans by the cent, and one account's absurd figures must not stop
   those of the others. Null stays null; least() would make the billion of it. #}
{% macro usd(amount) -%}
    cast(if({{ amount }} > 999999999, 999999999, {{ amount }}) as decimal(18, 9))
{%- endmacro %}

{# A DECIMAL(18,9) as people read it, "$1,234.50", and under a cent with two significant digits: as wording.usd does. #}
{% macro usd_in_words(amount) -%}
    if({{ amount }} < 0, '−$', '$') || if(
        abs({{ amount }}) > 0.005 or {{ amount }} = 0,
        format('{:,.2f}', round_even(abs({{ amount }}), 2)),
        rtrim(cast(cast(round(
            cast(abs({{ amount }}) as double), 1 - cast(floor(log10(abs({{ amount }}))) as integer)
        ) as decimal(18, 9)) as varchar), '0')
    )
{%- endmacro %}

{# What a purchase of `credits`, DECIMAL in USD, is charged by card, USD to the cent; nothing for nothing. #}
{% macro charged_by_card(credits) -%}
    {# A DECIMAL(18,9) times a fee leaves five digits before the point. #}
    {%- set wide = 'cast(%s as decimal(38, 9))' % credits -%}
    {{ usd(
        'if(%s > 0, round(%s + greatest(%s * %s, %s), 2), 0)'
        % (wide, wide, wide, var('purchase_fee'), var('purchase_fee_min_usd'))
    ) }}
{%- endmacro %}

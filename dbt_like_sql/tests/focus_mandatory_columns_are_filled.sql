-- What FOCUS 1.2 says must not be null is not.
select BillingAccountId, ChargePeriodStart, x_kind
from {{ ref('focus_cost_and_usage') }}
where BilledCost is null
    or EffectiveCost is null
    or ListCost is null
    or ContractedCost is null
    or BillingCurrency is null
    or BillingPeriodStart is null
    or BillingPeriodEnd is null
    or ChargePeriodEnd is null
    or ChargeCategory is null
    or ChargeDescription is null
    or ProviderName is null
    or PublisherName is null
    or InvoiceIssuerName is null
    or ServiceName is null
    or ServiceCategory is null

"""Ways of spending: what makes one simulated account unlike another."""

from dataclasses import dataclass
from decimal import Decimal

EVEN_HOURS = (1,) * 24
OFFICE_HOURS = (1, 1, 1, 1, 1, 2, 4, 9, 14, 16, 15, 12, 13, 16, 17, 15, 12, 8, 5, 4, 3, 2, 2, 1)
NIGHT_HOURS = (12, 14, 14, 12, 9, 6, 3, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 8, 9, 10, 11, 12, 12)
EVENING_HOURS = (4, 2, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 1, 1, 2, 4, 8, 14, 18, 19, 14, 8)


@dataclass(frozen=True)
class Profile:
    """A way of spending. Levels are USD a day before rhythm and bursts; days count back from the anchor."""

    name: str
    usd_at_first: float  # level on the first day; it grows evenly from here ...
    usd_at_anchor: float  # ... to this, and on
    weekdays: tuple[float, ...]  # Monday first
    calm: float  # pace on ordinary days
    busy: float  # pace in a burst
    busy_begins: float  # chance that a burst begins after a calm day
    busy_goes_on: float  # chance that it goes on after a busy day
    hours: tuple[int, ...]  # 24 weights, UTC
    models: tuple[tuple[str, float, float], ...]  # slug, share before and after the switch
    switch_days_ago: int
    quiet_week_days_ago: int
    refund_days_ago: int
    top_up_usd: int
    low_usd: int  # top up when the balance falls to this
    days_left: int  # at the anchor, by the mean of the last four weeks
    correction_days_ago: int = 0  # 0: none
    correction_usd: Decimal = Decimal(0)


STEADY = Profile(
    "steady",
    usd_at_first=6.0,
    usd_at_anchor=17.0,
    weekdays=(1.1, 1.2, 1.15, 1.1, 0.95, 0.2, 0.15),
    calm=1.0,
    busy=2.6,
    busy_begins=0.03,
    busy_goes_on=0.1,
    hours=OFFICE_HOURS,
    models=(
        ("anthropic/claude-sonnet-4", 0.55, 0.0),
        ("anthropic/claude-sonnet-4.5", 0.0, 0.48),
        ("openai/gpt-5-mini", 0.22, 0.16),
        ("google/gemini-2.5-flash", 0.15, 0.2),
        ("deepseek/deepseek-v3.2", 0.06, 0.14),
        ("mistralai/mistral-large", 0.12, 0.12),
        ("meta-llama/llama-3.3-70b-instruct:free", 0.02, 0.02),
    ),
    switch_days_ago=150,
    quiet_week_days_ago=95,
    refund_days_ago=61,
    top_up_usd=500,
    low_usd=50,
    days_left=24,
)

AGENTS = Profile(
    "agents",
    usd_at_first=22.0,
    usd_at_anchor=40.0,
    weekdays=(1.0, 1.1, 1.0, 1.1, 1.0, 0.9, 0.8),
    calm=0.25,
    busy=3.2,
    busy_begins=0.11,
    busy_goes_on=0.62,
    hours=NIGHT_HOURS,
    models=(
        ("anthropic/claude-sonnet-4.5", 0.7, 0.25),
        ("openai/gpt-5", 0.2, 0.62),
        ("openai/gpt-5-mini", 0.06, 0.06),
        ("deepseek/deepseek-v3.2", 0.04, 0.07),
    ),
    switch_days_ago=75,
    quiet_week_days_ago=210,
    refund_days_ago=118,
    top_up_usd=1000,
    low_usd=150,
    days_left=7,
)

HOBBY = Profile(
    "hobby",
    usd_at_first=0.8,
    usd_at_anchor=1.1,
    weekdays=(0.7, 0.6, 0.7, 0.7, 0.9, 1.7, 1.7),
    calm=0.0,
    busy=1.0,
    busy_begins=0.16,
    busy_goes_on=0.55,
    hours=EVENING_HOURS,
    models=(
        ("anthropic/claude-sonnet-4.5", 0.3, 0.1),
        ("google/gemini-2.5-flash", 0.4, 0.3),
        ("deepseek/deepseek-v3.2", 0.25, 0.55),
        ("meta-llama/llama-3.3-70b-instruct:free", 0.05, 0.05),
    ),
    switch_days_ago=120,
    quiet_week_days_ago=40,
    refund_days_ago=250,
    top_up_usd=50,
    low_usd=5,
    days_left=110,
    correction_days_ago=205,
    correction_usd=Decimal("1.25"),
)

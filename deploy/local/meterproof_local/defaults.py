"""What a new deployment on this machine begins with: prices of the replay's three models, and two budgets."""

from typing import Final

from meterproof_schemas.budget import Budget, BudgetFile
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice

_PER_MILLION: Final = "1000000"
_PRICES: Final = (
    # meter, provider, model, price of a million
    ("input_tokens", "openai", "gpt-4o", "2.50"),
    ("cache_read_tokens", "openai", "gpt-4o", "1.25"),
    ("output_tokens", "openai", "gpt-4o", "10.00"),
    ("reasoning_tokens", "openai", "gpt-4o", "10.00"),
    ("input_tokens", "anthropic", "claude-sonnet", "3.00"),
    ("cache_read_tokens", "anthropic", "claude-sonnet", "0.30"),
    ("cache_write_tokens", "anthropic", "claude-sonnet", "3.75"),
    ("output_tokens", "anthropic", "claude-sonnet", "15.00"),
    ("reasoning_tokens", "anthropic", "claude-sonnet", "15.00"),
    ("input_tokens", "self-hosted", "llama-70b", "0.60"),
    ("output_tokens", "self-hosted", "llama-70b", "0.80"),
)


def default_price_book() -> PriceBook:
    """Version 1 of the prices, in USD: every default meter is declared, tokens of the three models have a price."""
    return PriceBook(
        version=1,
        currency="USD",
        meters=DEFAULT_METERS,
        prices=tuple(
            UnitPrice(meter=meter, provider=provider, model=model, amount=amount, per=_PER_MILLION)
            for meter, provider, model, amount in _PRICES
        ),
    )


def default_budgets() -> BudgetFile:
    """A daily and a monthly budget for each agent."""
    return BudgetFile(
        version=1,
        budgets=(
            Budget(name="agents-daily", scope="agent", subject="*", window="day", limit="25", currency="USD"),
            Budget(name="agents-monthly", scope="agent", subject="*", window="month", limit="500", currency="USD"),
        ),
    )

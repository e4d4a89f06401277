"""Quantities are exact or refused."""

from decimal import Decimal, InvalidOperation
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from meterproof_schemas.quantity import (
    EXACT,
    INTEGER_MAX,
    Quantity,
    decimal_of,
    plain,
    plain_scaled,
    scaled,
    scaled_decimal,
)

QUANTITY: TypeAdapter[int | str] = TypeAdapter(Quantity)
SPELLED = st.from_regex(r"-?[0-9]{1,18}(\.[0-9]{1,12})?", fullmatch=True)


@given(st.one_of(st.integers(-INTEGER_MAX, INTEGER_MAX), SPELLED))
def test_what_is_accepted_keeps_its_exact_value(quantity: int | str) -> None:
    assert QUANTITY.validate_python(quantity) == quantity
    assert Fraction(decimal_of(quantity)) == Fraction(quantity)


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        0.5,
        True,
        None,
        2**63,
        -(2**63),
        2**64,
        "1e3",
        "",
        "1.",
        ".5",
        "+1",
        " 1",
        "1\n",
        "NaN",
        "1" * 19,
        "0." + "1" * 13,
        "\u0661",
    ],
)
def test_what_is_not_exact_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        QUANTITY.validate_python(value)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=-(10**18), max_value=10**18))
def test_plain_notation_is_exact_and_shortest(value: Decimal) -> None:
    text = plain(value)
    assert Decimal(text) == value
    assert "E" not in text.upper()
    assert not ("." in text and text[-1] in "0.")
    assert plain(Decimal(text)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("0.000", "0"),
        ("-0.00", "0"),
        ("1E+3", "1000"),
        ("2.5E-6", "0.0000025"),
        ("100", "100"),
        ("-1.50", "-1.5"),
    ],
)
def test_plain_notation_of_odd_decimals(value: str, text: str) -> None:
    assert plain(Decimal(value)) == text


@given(st.one_of(st.integers(-INTEGER_MAX, INTEGER_MAX), SPELLED))
def test_whole_numbers_of_the_last_place_are_the_same_quantity(quantity: int | str) -> None:
    whole = scaled(quantity)
    assert Fraction(whole, 10**12) == Fraction(quantity)
    assert scaled_decimal(decimal_of(quantity)) == whole
    assert plain_scaled(whole) == plain(decimal_of(quantity))


def test_what_is_no_whole_number_of_the_last_place_is_an_error() -> None:
    with pytest.raises(ArithmeticError):
        scaled_decimal(Decimal("0.0000000000001"))


@given(SPELLED, SPELLED)
def test_products_and_sums_are_exact(left: str, right: str) -> None:
    product = EXACT.multiply(Decimal(left), Decimal(right))
    assert Fraction(product) == Fraction(left) * Fraction(right)
    assert Fraction(EXACT.add(product, Decimal(left))) == Fraction(left) * Fraction(right) + Fraction(left)


def test_what_cannot_be_exact_is_an_error() -> None:
    with pytest.raises(ArithmeticError):
        EXACT.divide(Decimal(1), Decimal(3))
    with pytest.raises(InvalidOperation):
        EXACT.remainder(Decimal(10) ** 200, Decimal(3))
    with pytest.raises(ArithmeticError):
        EXACT.divide(Decimal(1), Decimal(0))

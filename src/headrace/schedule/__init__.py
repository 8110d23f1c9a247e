"""Orders of ops, one short file a family, and the checker that proves them."""

from headrace.schedule.checker import Checked, check
from headrace.schedule.families import FAMILIES, Family, make_schedule
from headrace.schedule.messages import Transfer, input_of, output_of, receives, sends
from headrace.schedule.op import KINDS, Kind, Op
from headrace.schedule.prices import Prices, price, unit_prices
from headrace.schedule.schedule import Schedule

__all__ = [
    "FAMILIES",
    "KINDS",
    "Checked",
    "Family",
    "Kind",
    "Op",
    "Prices",
    "Schedule",
    "Transfer",
    "check",
    "input_of",
    "make_schedule",
    "output_of",
    "price",
    "receives",
    "sends",
    "unit_prices",
]

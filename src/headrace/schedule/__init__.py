"""Orders of ops, one short file a family, and the checker that proves them."""

from headrace.schedule.checker import Checked, check
from headrace.schedule.families import FAMILIES, Family, make_schedule
from headrace.schedule.files import (
    read_schedule,
    schedule_from_csv,
    schedule_from_json,
    schedule_to_csv,
    schedule_to_json,
    write_schedule,
)
from headrace.schedule.forward_only import forward_only
from headrace.schedule.memory import check_memory
from headrace.schedule.messages import Transfer, input_of, output_of, receives, sends
from headrace.schedule.op import KINDS, Kind, Op
from headrace.schedule.prices import Prices, price, unit_prices
from headrace.schedule.schedule import Schedule
from headrace.schedule.split import split_backward
from headrace.schedule.versions import WeightVersions, weight_versions

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
    "WeightVersions",
    "check",
    "check_memory",
    "forward_only",
    "input_of",
    "make_schedule",
    "output_of",
    "price",
    "read_schedule",
    "receives",
    "schedule_from_csv",
    "schedule_from_json",
    "schedule_to_csv",
    "schedule_to_json",
    "sends",
    "split_backward",
    "unit_prices",
    "weight_versions",
    "write_schedule",
]

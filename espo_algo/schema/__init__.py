"""What a configuration may say: keys, types, ranges and choices; needs neither ray nor torch.

- ``types.py``: single values; ``sections.py``: every key, by section
- ``unread.py``: RLlib's keywords that nothing here reads
- ``check.py``: :func:`check_sections`, for files and built configurations alike

A keyword of one of ``ESPOConfig``'s methods stands either in ``sections.py`` or in ``unread.py``; a test compares them.
"""

from espo_algo.schema.check import FIELDS, WITHOUT_FIELD, check_sections, expected_value, section_keys
from espo_algo.schema.sections import COMMAND_LINE, SECTIONS
from espo_algo.schema.types import AuditWeighting, CriticKind, Dtype, EvaluationStops, Moments, Sharding, StopCredit
from espo_algo.schema.unread import UNREAD

__all__ = [
    "COMMAND_LINE",
    "FIELDS",
    "SECTIONS",
    "UNREAD",
    "WITHOUT_FIELD",
    "AuditWeighting",
    "CriticKind",
    "Dtype",
    "EvaluationStops",
    "Moments",
    "Sharding",
    "StopCredit",
    "check_sections",
    "expected_value",
    "section_keys",
]

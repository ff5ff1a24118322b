from __future__ import annotations

import pytest
from letter_task import LetterTask


@pytest.fixture
def letters() -> LetterTask:
    return LetterTask()

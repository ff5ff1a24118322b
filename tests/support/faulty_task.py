"""The coin task with a grader that fails in every way that it can."""

import math
import time

from coin_task import CoinTask

from espo_env.grading import Grade


class FaultyTask(CoinTask):
    """Of twenty problems one is graded NaN, one raises, one gets no grade; of a hundred one hangs its grader."""

    grade_timeout_s = 1.0

    def grade(self, problem, response):
        kind = problem.index % 20
        if kind == 3:
            return Grade(math.nan, response, "not a number")
        if kind == 7:
            raise ZeroDivisionError(f"grading problem {problem.index} is broken")
        if kind == 11:
            return None
        if problem.index % 100 == 15:
            time.sleep(30)
        return super().grade(problem, response)

"""The paper's five tables from what has been measured."""

from evaluation.report import Section
from evaluation.scores import ablation, tables


def sections_of(content: dict) -> list[Section]:
    """The sections of a result of the command `table`.

    Args:
        content: {"table": 1 to 5, "measured": results of `protocol.evaluate`, "missing": {set: why}, "lacking": notes};
            the last two may be absent. Results of Table 5 also have the keys that `ablation.sections` reads.
    """
    if content["table"] == 5:
        return ablation.sections(content["measured"])
    return tables.compare(content["table"], content["measured"], content.get("missing"), content.get("lacking", ()))

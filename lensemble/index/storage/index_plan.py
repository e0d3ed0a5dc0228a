"""What the next snapshot is to be: its kind, and what is asked of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from lensemble_contract.errors import InvalidInputError

AUTO = "auto"
RECALL_TARGET = 0.99


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """How an index is to be searched; it stays with the store.

    Attributes:
        kind: Name of a `Kind`, or `auto`, which goes by size, memory and recall.
        recall: Share of the true ten nearest that must be found, measured; 0 to 1.
        memory_bytes: That FAISS's index may take; 0 sets no limit.
        parameters: Of the kind; those left out are chosen.
    """

    kind: str = AUTO
    recall: float = RECALL_TARGET
    memory_bytes: int = 0
    parameters: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise InvalidInputError(f"{self.recall!r}; expected above 0, at most 1", field="recall")
        if self.memory_bytes < 0:
            raise InvalidInputError(f"{self.memory_bytes} is negative", field="memory")

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> IndexPlan:
        """Reads a plan back."""
        return cls(**json.loads(text))

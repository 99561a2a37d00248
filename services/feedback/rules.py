"""Which rule judges the votes now, and which one judged a snapshot."""

from psycopg import AsyncConnection, AsyncCursor

from services.feedback import weighting_queries as queries
from services.feedback.consensus import AnswerOdds, Rule, Weighting
from services.feedback.reliability import ANSWERS
from services.feedback.settings import ConsensusRule, FeedbackSettings

_KEPT = 8


class Rules:
    """The rule that is set: the majority, or annotators' newest weights.

    Weights are read once, since a weighting never changes.

    Args:
        minimum_votes: Votes that a consensus needs.
        weighted: Whether annotators are weighted, as far as there are weights.
    """

    def __init__(self, minimum_votes: int, *, weighted: bool = False) -> None:
        self.minimum_votes = minimum_votes
        self.weighted = weighted
        self._weightings: dict[int, Weighting] = {}

    async def ask(self, connection: AsyncConnection) -> AsyncCursor | None:
        """Ask for the newest weights; in a pipeline the answer is read after more was sent."""
        return await connection.execute(queries.NEWEST) if self.weighted else None

    async def answer(self, connection: AsyncConnection, asked: AsyncCursor | None) -> Rule:
        """Give the rule that held when it was asked for."""
        return await self.frozen(connection, self.minimum_votes, await newest(asked))

    async def frozen(
        self, connection: AsyncConnection, minimum_votes: int, weighting_id: int | None
    ) -> Rule:
        """Give the rule that stands in the database, for instance a snapshot's."""
        if weighting_id is None:
            return Rule(minimum_votes)
        if weighting_id not in self._weightings:
            self._weightings[weighting_id] = await _read(connection, weighting_id)
            while len(self._weightings) > _KEPT:
                del self._weightings[next(iter(self._weightings))]
        return Rule(minimum_votes, self._weightings[weighting_id])


def rules_of(settings: FeedbackSettings) -> Rules:
    """Give the rule that the service is set to."""
    return Rules(
        settings.feedback_minimum_votes,
        weighted=settings.feedback_consensus is ConsensusRule.WEIGHTED,
    )


async def newest(asked: AsyncCursor | None) -> int | None:
    """Read which weights `Rules.ask` was told of; None where the majority judges."""
    row = await asked.fetchone() if asked is not None else None
    return None if row is None else row[0]


async def _read(connection: AsyncConnection, weighting_id: int) -> Weighting:
    wanted = {"weighting_id": weighting_id}
    head = await connection.execute(queries.WEIGHTING, wanted)
    rows = await connection.execute(queries.OWN_WEIGHTS, wanted)
    ((bar, *average),) = await head.fetchall()
    own = {annotator: answer_odds(*odds) async for annotator, *odds in rows}
    return Weighting(bar, answer_odds(*average), own)


def answer_odds(*odds: float) -> AnswerOdds:
    """Name the log odds of the answers, which come in the order of `ANSWERS`."""
    return dict(zip(ANSWERS, odds, strict=True))

"""A BentoML service that depends on the model service, which then runs in its own process."""

import bentoml

from service import ModelLoadServer


@bentoml.service(name="caller")  # type: ignore[operator]
class Caller:
    """Returns the answers of the model service."""

    ours = bentoml.depends(ModelLoadServer)  # type: ignore[call-overload]

    @bentoml.api(route="/ask")
    async def ask(self, rows: list[list[float]]) -> dict[str, list[object]]:
        probabilities = await self.ours.to_async.predict(data=rows)
        names = await self.ours.to_async.predict_label(data=rows)
        return {"probabilities": probabilities.tolist(), "names": names}

"""`docker push` of the same image to an empty registry on this machine."""

from tests.support.engine import Engine

from bench.bigimage import NAME, Big, pull, registry, variant
from bench.disk import settle
from bench.row import Row
from bench.work import seconds

FROM, TO = 5052, 5053


def push(engine: Engine, address: str, image: Big) -> None:
    """Push it."""
    with engine.api("1.41") as api:
        path = f"/images/{address}/{NAME}/push"
        answer = api.request(
            "POST", path, {"tag": image.tag}, headers={"X-Registry-Auth": "e30="}
        ).expect(200)
    assert b"errorDetail" not in answer.body, answer.body[-500:]


def measure(engine: Engine, quick: bool) -> float:
    """Return seconds for one push of an image that was pulled from somewhere else."""
    image = variant(quick)
    with registry(engine, FROM, image) as source, registry(engine, TO) as target:
        pull(engine, source, image)
        with engine.api("1.41") as api:
            api.post(
                f"/images/{source}/{image.name}/tag",
                {"repo": f"{target}/{NAME}", "tag": image.tag},
            ).expect(201)
        settle()
        return seconds(lambda: push(engine, target, image))


ROW = Row("push it to an empty local registry", "s", 3, measure, rounds=3)

"""Questions and what a phone answers."""

from typing import Any

from golden.encoding import b64, typed
from golden.sample import INSTRUCTION, NODE, NOW, SECONDS, STATUS, TASK, UPDATE, question
from pocketfed.core.wire import DECLINED, FAILED
from pocketfed.mobile_client.flower.objects import Records, object_id
from pocketfed.mobile_client.flower.task import Failure, Question, build_answer


def answers() -> list[dict[str, Any]]:
    """Updates, a status, a no and a failure."""
    return [_answer(*case) for case in _cases()]


def _cases() -> list[tuple[str, str, Records, Records | Failure, int | None]]:
    train: Records = {"instruction": INSTRUCTION}
    return [
        ("an update", "train", train, {"update": UPDATE}, TASK),
        ("a status; the question has no records", "query", {}, {"status": STATUS}, TASK),
        ("declined", "train", train, Failure(DECLINED, "not charging"), TASK),
        ("failed", "train", train, Failure(FAILED, "the program failed — α"), TASK),
        ("a question without a task", "train", train, {"update": UPDATE}, None),
    ]


def _answer(
    name: str, kind: str, records: Records, content: Records | Failure, task: int | None
) -> dict[str, Any]:
    asked, _ = question(kind, records, task)
    head = asked.SerializeToString(deterministic=True)
    read = Question.read(head)
    assert read is not None
    answer = build_answer(read, NODE, NOW, SECONDS, content)
    said: dict[str, Any] = (
        {"error": {"code": content.code, "reason": content.reason}}
        if isinstance(content, Failure)
        else {"records": typed(content)}
    )
    return {
        "name": name,
        "question": b64(head),
        "node": str(NODE),
        "now": NOW,
        "seconds": SECONDS,
        **said,
        "push_messages": b64(answer.request),
        "objects": [{"id": object_id(c), "content": b64(c)} for c in answer.objects],
    }

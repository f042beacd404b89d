"""Objects on their way, which are weights and what is around them: in memory, and bounded."""

from collections.abc import Sequence
from itertools import islice

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import is_valid_sha256_hash, iterate_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

from pocketfed.server.admission import Admission
from pocketfed.server.flower_private.mistakes import refused

MOST_OBJECTS = 64
"""Objects in one answer. Ours have three."""


class BoundedStore(InMemoryObjectStore):
    """Objects in memory; what a phone can make it hold for one answer is bounded."""

    def __init__(self, largest: int) -> None:
        """Begin empty; an answer may have `largest` bytes in all."""
        super().__init__()
        self.admission = Admission(largest)

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        nodes = list(islice(iterate_object_tree(object_tree), MOST_OBJECTS + 1))
        if len(nodes) > MOST_OBJECTS:
            raise refused(f"an answer has more than {MOST_OBJECTS} objects")
        if not all(is_valid_sha256_hash(node.object_id) for node in nodes):
            raise refused("an answer has an object whose id is no hash")
        with self.lock_store:
            new = {node.object_id for node in nodes} - self.store.keys()
            if new and object_tree.object_id in self.store:
                raise refused("an answer that was offered before has other objects now")
            self._check_children(nodes)
            missing = super().preregister(run_id, object_tree)
            self.admission.claim(object_tree.object_id, new)
            return missing

    def _check_children(self, nodes: Sequence[ObjectTree]) -> None:
        """An object that is named again has the same children, or none are named; others would belong to nobody."""
        known: dict[str, list[str]] = {}
        for node in nodes:
            children = [child.object_id for child in node.children]
            entry = self.store.get(node.object_id)
            before = known.setdefault(node.object_id, children if entry is None else entry.child_object_ids)
            if children and children != before:
                raise refused("an object of an answer has other children elsewhere")

    def put(self, object_id: str, object_content: bytes) -> None:
        size = len(object_content)
        with self.lock_store:
            self.admission.check_size(object_id, size)
            super().put(object_id, object_content)
            self.admission.pushed(object_id, size, self._is_whole)

    def _is_whole(self, answer: str) -> bool:
        return all(self.store[name].content for name in self.below(answer))

    def delete(self, object_id: str) -> None:
        with self.lock_store:
            super().delete(object_id)
            if object_id not in self.store:
                self.admission.gone(object_id)

    def clear(self) -> None:
        with self.lock_store:
            super().clear()
            self.admission.clear()

    def free(self, instruction: str) -> None:
        """Delete an instruction and all answers that were offered to it."""
        with self.lock_store:
            for answer in self.admission.end(instruction):
                self.delete(answer)
            self.delete(instruction)

    def below(self, root: str) -> tuple[str, ...]:
        """The ids of an object and all that it is made of, each once.

        Flower's own `get_object_tree` repeats an object wherever it is named: a tree of 64 may have 2^31 branches.
        """
        found: dict[str, None] = {}
        waiting = [root]
        with self.lock_store:
            while waiting:
                name = waiting.pop()
                if name not in found:
                    found[name] = None
                    entry = self.store.get(name)
                    waiting += entry.child_object_ids if entry is not None else ()
        return tuple(found)
